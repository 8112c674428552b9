import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from server.stack import child as child_module
from server.stack.child import Child, restart_pause_s
from server.stack.commands import Command

StartChild = Callable[[Command], Child]


def python(name: str, code: str, *, grace_s: float = 5.0) -> Command:
    return Command(name, (sys.executable, "-c", code), stop_grace_s=grace_s)


def wait_for(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def end_of(child: Child) -> int:
    end_s = time.monotonic() + 10
    while (status := child.poll()) is None:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    return status


def test_restart_pause_grows_to_its_cap() -> None:
    assert [restart_pause_s(n) for n in (0, 1, 2, 3, 7, 1000)] == [0.2, 0.2, 0.4, 0.8, 10.0, 10.0]


def test_child_gets_no_blocked_signals_and_many_descriptors(start_child: StartChild) -> None:
    code = (
        "import resource, signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []), "
        "len(set(resource.getrlimit(resource.RLIMIT_NOFILE))))"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        child = start_child(python("mask", code))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert end_of(child) == 0
    assert child.last_line() == "set() 1"


def test_child_that_ignores_sigterm_is_killed_with_its_children(start_child: StartChild) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']); print('on'); time.sleep(1000)"
    )
    child = start_child(python("deaf", code, grace_s=0.2))
    wait_for(lambda: child.last_line() == "on")
    assert child.identity is not None
    tree = [psutil.Process(child.identity.pid), *psutil.Process(child.identity.pid).children()]
    assert len(tree) == 2
    child.ask_to_stop()
    child.finish(time.monotonic() + 0.2)
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in tree))


def test_child_whose_leader_ends_leaves_no_grandchild(start_child: StartChild) -> None:
    code = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)']).pid)"
    )
    child = start_child(python("short", code))
    assert end_of(child) == 0
    pid = int(child.last_line())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_child_killed_reports_the_signal_and_plans_longer_pauses(start_child: StartChild) -> None:
    child = start_child(python("killed", "import time; time.sleep(1000)"))
    assert child.identity is not None
    os.kill(child.identity.pid, signal.SIGKILL)
    assert end_of(child) == -signal.SIGKILL
    assert [child.plan_restart() for _ in range(3)] == [0.2, 0.4, 0.8]
    assert child.restart_at_s is not None


def test_child_program_that_is_not_there_ends_with_its_name_in_the_log(start_child: StartChild) -> None:
    child = start_child(Command("absent", ("/no/such/program",)))
    assert end_of(child) != 0
    assert "No such file" in child.last_line()


def test_rotate_log_keeps_the_file_below_its_limit_while_the_child_goes_on(
    start_child: StartChild, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child_module, "LOG_LIMIT_BYTES", 5_000)
    child = start_child(python("chatty", "import time\nwhile True: print('x' * 99); time.sleep(0.001)"))
    for _ in range(3):
        wait_for(lambda: child.log_path.stat().st_size > 5_000)
        child.rotate_log()
        assert child.log_path.stat().st_size <= 5_000
    assert (tmp_path / "chatty.log.1").stat().st_size > 5_000
