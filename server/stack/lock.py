"""One `up` per data folder: a lock that the kernel drops when its holder ends, however it ends."""

import fcntl
import os
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from server.stack.errors import AlreadyRunningError, StackError
from server.stack.state import stack_state

LOCK_NAME: Final = "up.lock"
LAST_RUN_S: Final = 3.0
LOOK_S: Final = 0.05


class DataDirLock:
    """Context manager that holds the folder. The file stays: removing it would let two holders lock two files."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Not inherited by children (PEP 446): a child that outlives us must not keep the folder locked.
            self._descriptor = os.open(self._data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise StackError(f"The data folder {self._data_dir} cannot be used: {exc.strerror}.") from exc
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise AlreadyRunningError(
                f"Another `edge-registry up` (pid {holder}) already runs on {self._data_dir}: "
                "stop it first, or give another --data-dir."
            ) from exc
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def wait_for_last_run(data_dir: Path) -> None:
    """After kill -9 of the supervisor its children are about to end: they hold the ports, and Mosquitto its file."""
    state = stack_state(data_dir)
    left = list(state.processes.values()) if state else []
    end_s = time.monotonic() + LAST_RUN_S
    while any(process.is_alive() for process in left) and time.monotonic() < end_s:
        time.sleep(LOOK_S)
    for process in left:
        if process.is_alive():  # this very process, by its start time, and we hold the lock: nobody else uses it
            os.kill(process.pid, signal.SIGKILL)
