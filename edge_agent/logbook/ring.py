"""The log on disk: two files that take turns, so that it never takes more than its limit.

Kind to an SD card: a line is appended and never fsynced, so the kernel writes a page once in half a minute while there
is something to say, and nothing otherwise; a power cut costs the last lines, `kill -9` none. What would flood it is
counted and left out. journald does the same with its default of one sync in five minutes.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from edge_agent.logbook.lines import entries, entry
from edge_agent.protocol.inquiry import LogLevel, LogLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CURRENT, BEFORE = "agent.log", "agent.log.1"
LINES_PER_S = 1.0  # in the long run
LINES_BURST = 300.0


class LogRing:
    """Appends lines; called by one thread at a time.

    Args:
        folder: made if it is not there.
        limit_bytes: of both files together.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes // 2
        self._number = max((line.number for line in read(folder)), default=0)
        self._torn = _is_torn(folder / CURRENT)
        self._allowed, self._filled_s = LINES_BURST, 0.0
        self._left_out = 0

    def append(self, level: LogLevel, text: str, *, unix_s: float, now_s: float) -> None:
        """Write one line, unless there are too many or the disk takes nothing.

        Args:
            level: how grave it is.
            text: with nothing secret in it.
            unix_s: the time for people.
            now_s: monotonic.
        """
        self._allowed = min(LINES_BURST, self._allowed + (now_s - self._filled_s) * LINES_PER_S)
        self._filled_s = now_s
        if self._allowed < 1.0:
            self._left_out += 1
            return
        self._allowed -= 1.0
        said = f"{self._left_out} lines were left out: too many came at once, or the disk took none"
        if self._left_out and self._write(LogLevel.WARNING, said, unix_s):
            self._left_out = 0
        if not self._write(level, text, unix_s):
            self._left_out += 1  # nobody to tell: what says so would come here again

    def _write(self, level: LogLevel, text: str, unix_s: float) -> bool:
        line = entry(LogLine(number=self._number + 1, at=max(0.0, unix_s), level=level, text=text[:4000]))
        content = ("\n" * self._torn + line).encode(errors="replace")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._turn(len(content))
            # opened each time: a folder that was moved or removed meanwhile must not swallow the log of months
            descriptor = os.open(self._folder / CURRENT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            try:
                os.write(descriptor, content)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        self._number += 1
        self._torn = False
        return True

    def _turn(self, coming_bytes: int) -> None:
        path = self._folder / CURRENT
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size + coming_bytes > self._limit_bytes:
                path.replace(self._folder / BEFORE)


def _is_torn(path: Path) -> bool:
    """Whether a power cut has left half a line: the next one must not become its end."""
    try:
        return path.read_bytes()[-1:] not in (b"", b"\n")
    except OSError:
        return False


def read(folder: Path) -> Iterator[LogLine]:
    """All lines that are kept, oldest first; none where nothing was ever logged.

    A reader may come between the two files while they take turns: it then sees fewer, never one twice.
    """
    seen = -1
    for name in (BEFORE, CURRENT):
        with contextlib.suppress(OSError):
            for line in entries((folder / name).read_bytes().decode(errors="replace")):
                if line.number > seen:
                    seen = line.number
                    yield line
