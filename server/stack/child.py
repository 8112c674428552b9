"""One child process: started so that it dies with us, logged, restarted with growing pauses, stopped with its group."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from server.stack.commands import Command
from server.stack.errors import StackError
from server.stack.launch import die_with_parent
from server.stack.state import ProcessId, process_id

LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 10.0
# Who ran for this long was healthy: the next death starts from the first pause again.
HEALTHY_AFTER_S: Final = 30.0


def restart_pause_s(deaths_in_a_row: int) -> float:
    """How long to wait before the next start: doubling from 0.2 s, at most 10 s."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(max(0, deaths_in_a_row - 1), 16)))


class Child:
    """A process of the stack. Used by one thread: the one that lives as long as the supervisor (see launch.py)."""

    def __init__(self, command: Command, *, log_dir: Path, environment: dict[str, str]) -> None:
        self.command = command
        self.log_path = log_dir / f"{command.name}.log"
        self._environment = {**environment, "PYTHONUNBUFFERED": "1", **command.environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._deaths_in_a_row = 0
        self.restart_at_s: float | None = None
        """When to start it again (monotonic); None: it runs, or shall not run."""

    @property
    def identity(self) -> ProcessId | None:
        """Pid and start time, while it runs."""
        return process_id(self._process.pid) if self._process else None

    def start(self) -> None:
        """Start the program in a session of its own, so that Ctrl-C reaches the supervisor alone.

        Raises:
            StackError: the log cannot be written.
        """
        self.restart_at_s = None
        argv = die_with_parent(list(self.command.argv), death_signal=self.command.death_signal)
        try:
            # A file, and no pipe: a pipe would fill, and stop the child, whenever the supervisor is busy or gone.
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the command comes from our own table
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.command.folder,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as exc:
            raise StackError(f"{self.command.name} cannot be started: {exc}.") from exc
        self._started_s = time.monotonic()

    def poll(self) -> int | None:
        """The exit status if it ended since the last look; None while it runs. What it left in its group is killed."""
        process = self._process
        if process is None or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        # Not reaped yet, so the number of the group cannot belong to anybody else.
        self._signal_group(signal.SIGKILL)
        status = process.wait()
        self._process = None
        return status

    def plan_restart(self) -> float:
        """After a death: when it will be started again. Returns the pause in seconds."""
        now_s = time.monotonic()
        if now_s - self._started_s >= HEALTHY_AFTER_S:
            self._deaths_in_a_row = 0
        self._deaths_in_a_row += 1
        pause_s = restart_pause_s(self._deaths_in_a_row)
        self.restart_at_s = now_s + pause_s
        return pause_s

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the program itself; its children are its own affair, for as long as the grace lasts."""
        self.restart_at_s = None
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program itself, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def finish(self, deadline_s: float) -> None:
        """Wait until it has ended, at most until `deadline_s` (monotonic); then kill it and its group."""
        while self._process is not None and self.poll() is None:
            if time.monotonic() >= deadline_s:
                self._signal_group(signal.SIGKILL)
                self._process.wait()
                self._process = None
                return
            time.sleep(0.01)

    def rotate_log(self) -> None:
        """Keep the log below its limit: copy it aside and empty it in place. The child appends: no signal needed."""
        try:
            if self.log_path.stat().st_size <= LOG_LIMIT_BYTES:
                return
            shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
            os.truncate(self.log_path, 0)
        except OSError:
            # A full disk must not end the supervisor; the next look tries again.
            return

    def last_line(self) -> str:
        """The last line it logged, for an error message."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process is not None:
            try:
                os.killpg(self._process.pid, number)
            except (ProcessLookupError, PermissionError):
                return
