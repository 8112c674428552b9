"""Runs as a script, before each child: die with the parent, then become the program.

Why a program of its own: PR_SET_PDEATHSIG must be set in the child, and Python code between fork and exec
(`preexec_fn`) can deadlock when another thread holds a lock. The setting survives exec. The kernel sends the signal
when the *thread* that forked ends, so children are spawned from the main thread, which lives as long as the process.
A pipe watched by the children would not do: Mosquitto and SeaweedFS would not watch it.

Standard library only: it is started with `-I -S`, without the site packages, in about 20 ms.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def die_with_parent(argv: list[str], *, death_signal: int = signal.SIGKILL) -> list[str]:
    """The command that runs `argv` and gets `death_signal` when the calling process ends, however it ends.

    Spawn it from a thread that lives as long as the process, and from no other.
    """
    return [sys.executable, "-I", "-S", __file__, str(int(death_signal)), str(os.getpid()), *argv]


def main(arguments: list[str]) -> None:
    """Bind this process to its parent and become the program in `arguments[2:]`."""
    death_signal, parent_pid, argv = int(arguments[0]), int(arguments[1]), arguments[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before the line above: nobody would send the signal
        sys.exit(1)
    # The supervisor waits for signals with all of them blocked; a mask is inherited, and would make us deaf.
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    # One descriptor per device: the soft limit (often 1,024) is too low for a broker, the hard one is ours to use.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.execvp(argv[0], argv)  # noqa: S606 - no shell on purpose: the arguments are passed as they are


if __name__ == "__main__":
    main(sys.argv[1:])
