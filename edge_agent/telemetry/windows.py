"""Telemetry windows on their way into the spool: each exactly once, whoever was killed.

A window comes as a message from its runner, with the name of the journal that holds the same (see `runner.journal`).
The name is committed with the report, then the file is removed. A journal that nobody holds any more and whose window
never came is what a killed process has left: its report is made from the file.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from edge_agent.runner.journal import is_held, report_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_agent.protocol.messages import TelemetryReport
    from edge_agent.runner.control import Window
    from edge_agent.telemetry.spool import Spool

LOOK_EVERY_S = 1.0
YOUNG_S = 10.0  # a file that tells nothing yet may have been made this moment


class Windows:
    """Collects windows and hands them to the spool."""

    def __init__(self, journal_dir: Path, spool: Spool) -> None:
        self._folder, self._spool = journal_dir, spool
        self._reports: list[TelemetryReport] = []
        self._journals: list[str] = []
        self._done: set[str] = set()  # counted from the file; its message, or a file that stays, counts no more
        self._look_at_s = 0.0
        journal_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove(sorted(spool.taken()))

    def take(self, window: Window) -> None:
        """A runner has sent a window."""
        if window.journal is None:
            self._reports.append(window.report)
        elif window.journal not in self._done:
            self._journals.append(window.journal)
            self._reports.append(window.report)

    def take_reports(self, reports: Sequence[TelemetryReport]) -> None:
        """In-process models have sent windows; they have no journal."""
        self._reports += reports

    def look(self, now_s: float) -> None:
        """Take what killed runners have left behind."""
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_EVERY_S
        try:
            found = [path for path in self._folder.iterdir() if path.name not in self._done | set(self._journals)]
        except OSError:
            return
        for path in found:
            if not is_held(path):
                self._adopt(path)

    def keep(self, fill: Callable[[TelemetryReport], TelemetryReport], *, unix_s: float) -> None:
        """Commit what has come, then remove the journals."""
        if not self._reports:
            return
        filled = [fill(w) for w in self._reports if w.requests or w.inferences or w.errors]
        journals = list(self._journals)
        self._reports.clear()
        self._journals.clear()
        self._spool.add(filled, unix_s=unix_s, journals=journals)
        self._remove(journals)

    def close(self) -> None:
        """Leave nothing behind when nothing is left to be counted."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _adopt(self, path: Path) -> None:
        try:
            content, written_at = path.read_bytes(), path.stat().st_mtime
        except OSError:
            return
        report = report_of(content)
        if report is not None:
            self._done.add(path.name)
            self._journals.append(path.name)
            self._reports.append(report)
        elif abs(time.time() - written_at) > YOUNG_S:
            self._remove([path.name])

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError:
                self._done.add(name)
