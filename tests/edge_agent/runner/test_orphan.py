from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUPERVISOR = """
import os, sys, time
from edge_agent.supervisor.child import Child
child = Child((sys.executable, "-m", sys.argv[1]), descriptors=[], environment=os.environ, now_s=0.0)
print(child.process.pid, flush=True)
time.sleep(600)
"""
RUNS_NATIVE_CODE = """
import re, socket, sys
from edge_agent.runner.channel import die_with_the_supervisor, leave_when_orphaned
descriptor = int(sys.argv[-1])
die_with_the_supervisor(descriptor)
leave_when_orphaned(descriptor, 0.0)
socket.socket(fileno=descriptor).send(b"x")
re.match(r"(a+)+$", "a" * 64 + "b")  # years in C, and the interpreter stays locked: no thread of Python's runs
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def ended_within(pid: int, seconds: float) -> bool:
    give_up_at = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    return not alive(pid)


def has_begun(pid: int) -> bool:
    """It is past its start: asyncio's epoll is open."""
    try:
        links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any("eventpoll" in link for link in links)


@pytest.mark.parametrize("module", ["edge_agent.runner", "edge_agent.front"])
def test_child_that_is_stopped_ends_with_a_supervisor_that_is_killed(module: str) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, module], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        pid = int(supervisor.stdout.readline())
    try:
        give_up_at = time.monotonic() + 20
        while not has_begun(pid):
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)
    finally:
        supervisor.kill()
        supervisor.wait()
    assert ended_within(pid, 1.0)


def test_child_that_native_code_holds_ends_with_a_supervisor_that_is_killed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        launch = (
            "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]],"
            " pass_fds=[int(sys.argv[2])]); print(p.pid, flush=True); p.wait()"
        )
        descriptor = theirs.fileno()
        command = [sys.executable, "-c", launch, RUNS_NATIVE_CODE, str(descriptor)]
        supervisor = subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE)
        assert supervisor.stdout is not None
        with supervisor.stdout:
            pid = int(supervisor.stdout.readline())
        ours.settimeout(20)
        try:
            assert ours.recv(1) == b"x"
            time.sleep(0.1)
            assert alive(pid)
        finally:
            supervisor.kill()
            supervisor.wait()
        assert ended_within(pid, 1.0)


@pytest.mark.parametrize("module", ["edge_agent.runner", "edge_agent.front"])
def test_child_whose_supervisor_ended_before_it_began_leaves_at_once(module: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        command = [sys.executable, "-m", module, "--control-fd", str(theirs.fileno())]
        assert subprocess.run(command, pass_fds=[theirs.fileno()], timeout=20, check=False).returncode == 3
