"""Runs as a script, between a worker and one job: sets the limits, starts the job, and leaves nothing of it behind.

The worker may be killed at any time, and a job starts processes of its own. So this small process stands between them:
the kernel tells it when the worker is gone; orphans of the job become its children (PR_SET_CHILD_SUBREAPER), also
those that left the job's process group; and it ends only when the last of them has. It ends the way the job did.

Standard library only: it is started with `-I -S`, without the site packages.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
CANNOT_START: Final = 127
CPU_GRACE_S: Final = 5
WATCHED_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGCHLD})


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _leave_network() -> None:
    """Take the network away from this process and its children: a job needs none, an attacked one would reach S3.

    Root may do so; others may in a user namespace of their own, unless the kernel forbids that: then it stays.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        if libc.unshare(flags) == 0:
            return


def _limit(kind: int, value: int, *, extra: int = 0) -> None:
    """Set soft and hard limit; `extra` lies between the two."""
    _, most = resource.getrlimit(kind)
    soft, hard = (number if most == resource.RLIM_INFINITY else min(number, most) for number in (value, value + extra))
    resource.setrlimit(kind, (soft, hard))


def _become_job(limits: dict[str, int], argv: list[str], cell_pid: int) -> NoReturn:
    try:
        os.setsid()
        _leave_network()  # before the next line: new credentials may clear what it sets
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != cell_pid:
            os._exit(CANNOT_START)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_AS, limits["memory_bytes"])
        # at the soft limit comes SIGXCPU, which says why; at the hard one SIGKILL
        _limit(resource.RLIMIT_CPU, limits["cpu_s"], extra=CPU_GRACE_S)
        _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
        _limit(resource.RLIMIT_NPROC, limits["processes"])
        _limit(resource.RLIMIT_NOFILE, limits["open_files"])
        os.execv(argv[0], argv)  # noqa: S606 - no shell on purpose: the arguments are passed as they are
    except BaseException as exc:  # noqa: BLE001 - a forked child must never return into the parent's code
        os.write(2, f"the job cannot be started: {exc}\n".encode())
    os._exit(CANNOT_START)


def _children() -> list[int]:
    """Processes whose parent is this one."""
    own = str(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text("utf-8", "replace")
        except OSError:
            continue  # it ended while we looked
        # the name of a program may hold spaces and brackets, but no bracket comes after it
        if text.rpartition(")")[2].split()[1] == own:
            found.append(int(entry.name))
    return found


def _kill_all() -> None:
    """Kill every process of the job and wait until there are none."""
    while children := _children():
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.005)


def _wait(job: int) -> int:
    """The wait status of the job; that of a kill when the worker ended, or wants the job to end."""
    while True:
        # both are blocked and waited for: a handler could run between any two lines
        if signal.sigwait(WATCHED_SIGNALS) == signal.SIGTERM:
            return signal.SIGKILL
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == job:
                return ended[1]


def main(arguments: list[str]) -> NoReturn:
    """Run the program in `arguments[2:]` within the limits of `arguments[1]` for the worker `arguments[0]`."""
    worker_pid, limits, argv = int(arguments[0]), json.loads(arguments[1]), arguments[2:]
    signal.pthread_sigmask(signal.SIG_SETMASK, WATCHED_SIGNALS)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != worker_pid:  # it ended before the line above: nobody would send the signal
        os._exit(CANNOT_START)
    cell_pid = os.getpid()
    job = os.fork()
    if job == 0:
        _become_job(limits, argv, cell_pid)
    status = _wait(job)
    _kill_all()
    if os.WIFSIGNALED(status):
        # end by the same signal, so that the worker sees what the job saw
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.argv[1:])
