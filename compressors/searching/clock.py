"""The time of a search: how much of it all its runs have spent, and a limit for work that asks nobody.

Seconds are kept on disk while they pass: those of the trial that a kill interrupts are spent as well.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEPT_EACH_S = 1.0  # the most that a kill makes a search forget


@contextmanager
def stopwatch(path: Path, *, began: float) -> Iterator[Callable[[], float]]:
    """The seconds that a search has spent in all its runs, kept in a file; what is damaged in it counts as nothing.

    Args:
        path: the file; one process at a time has it.
        began: when this run did, by `time.monotonic`.
    """
    before, ended = _kept(path), threading.Event()

    def spent() -> float:
        return before + time.monotonic() - began

    def keep() -> None:
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(repr(spent()))
        partial.replace(path)

    def keep_on() -> None:
        while not ended.wait(KEPT_EACH_S):
            keep()

    keeper = threading.Thread(target=keep_on, daemon=True)
    keeper.start()
    try:
        yield spent
    finally:
        ended.set()
        keeper.join()
        keep()


def _kept(path: Path) -> float:
    try:
        seconds = float(path.read_text())
    except (OSError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


class OutOfTimeError(BaseException):
    """The time is up. No `Exception`: what a step catches of its libraries must not catch this."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTimeError` in the main thread after some seconds; None: never."""
    if seconds is None:
        yield
        return
    if seconds <= 0:
        raise OutOfTimeError
    before = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _ring(_signal: int, _frame: object) -> None:
    raise OutOfTimeError
