"""Going through many points one after the other: each is tried, what failed is told at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P = TypeVar("P")


class LateError(Exception):
    """All was right, but not within the time: of the device, or of a machine that had other things to do."""


def go_through(
    kind: str, points: Sequence[P], attempt: Callable[[P], str], *, terminal: pytest.CaptureFixture[str]
) -> None:
    """Try each point; `attempt` says in a word what it met, or fails. Prints how many there were and of what.

    A point that was late is tried once more at the end: late again, it has failed.
    """
    met: Counter[str] = Counter()
    failed: list[str] = []
    late: list[P] = []
    began_s = time.monotonic()
    for number, point in enumerate(points, 1):
        try:
            met[attempt(point)] += 1
        except LateError as exc:
            late.append(point)
            _say(terminal, f"{kind}: {point}: {exc}")
        except (AssertionError, pytest.fail.Exception) as exc:
            failed.append(f"{point}: {str(exc)[-1500:]}")
            _say(terminal, f"{kind}: {failed[-1]}")
        if number % 20 == 0 or number == len(points):
            took_s = time.monotonic() - began_s
            _say(terminal, f"{kind}: {number} of {len(points)} points, {len(failed)} failed, {took_s:.0f} s")
    for point in late:
        try:
            met[attempt(point)] += 1
        except (LateError, AssertionError, pytest.fail.Exception) as exc:
            failed.append(f"{point}, late before: {str(exc)[-1500:]}")
    _say(terminal, f"{kind}: {dict(met)}, {len(late)} late at first")
    assert not failed, f"{len(failed)} of {len(points)} points:\n" + "\n".join(failed)


def _say(terminal: pytest.CaptureFixture[str], text: str) -> None:
    with terminal.disabled():
        sys.stderr.write(f"\n{text}")
