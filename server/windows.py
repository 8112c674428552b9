"""Maintenance windows: times of the day in a device's own time zone. Pure, but for the zones that Python reads once.

A window is compared with the clock on the wall: where that jumps over it (in spring) it does not open that day, where
an hour comes twice (in autumn) it is open twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge_agent.protocol.refusal import shown

ZONE_LABEL: Final = "tz"  # of a device; the value is a name such as Europe/Berlin
DAY_S: Final = 86400
# Clocks are changed at whole quarters of an hour: a window that opens inside a gap opens at one of them.
QUARTER_S: Final = 900
# A window of a few minutes can lie in a gap, and is there again the day after.
LOOK_AHEAD_DAYS: Final = 3
_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """From one time of the day to another, which is outside; over midnight where it ends before it begins."""

    begins: time
    ends: time

    def __str__(self) -> str:
        return f"{self.begins:%H:%M}-{self.ends:%H:%M}"

    def has(self, clock: time) -> bool:
        """Whether it is open when a clock on the wall shows this."""
        if self.begins < self.ends:
            return self.begins <= clock < self.ends
        return clock >= self.begins or clock < self.ends


def parse_window(text: str) -> Window:
    """Read `22:00-04:00`.

    Raises:
        ValueError: half a sentence that says what would do.
    """
    match = _WINDOW.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{shown(text)} is no window; write HH:MM-HH:MM, for example 22:00-04:00")
    begins, ends = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if begins == ends:
        raise ValueError(f"{shown(text)} begins when it ends; leave it out to allow the whole day")
    return Window(begins, ends)


@lru_cache(maxsize=1024)
def find_zone(name: str) -> ZoneInfo | None:
    """The time zone of this name; None: there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # no such file, no name of one, a folder
        return None


def check_zone(name: str) -> str:
    """The name of a time zone as it was given.

    Raises:
        ValueError: half a sentence; there is no such zone.
    """
    if find_zone(name) is None:
        raise ValueError(f"{shown(name)} is no time zone; write a name such as Europe/Berlin or UTC")
    return name


def zone_of(label: str | None, *, default: str) -> str:
    """The zone of a device by its label; one that is unknown counts as none."""
    return label if label and find_zone(label) is not None else default


def is_open(window: Window, zone: str, *, now: float) -> bool:
    """Whether it is open at a moment (seconds since 1970)."""
    return window.has(_local(zone, now).time())


def next_opening(window: Window, zone: str, *, now: float) -> float:
    """The first moment from `now` on at which it is open (seconds since 1970)."""
    if is_open(window, zone, now=now):
        return now
    today = _local(zone, now).date()
    starts = (
        datetime.combine(today + timedelta(days=day), window.begins, find_zone(zone) or UTC).replace(fold=fold)
        for day in range(-1, LOOK_AHEAD_DAYS)
        for fold in (0, 1)
    )
    quarter = (now // QUARTER_S + 1) * QUARTER_S
    quarters = (quarter + number * QUARTER_S for number in range(LOOK_AHEAD_DAYS * DAY_S // QUARTER_S))
    found = (start.timestamp() for start in starts)
    return min(at for at in (*found, *quarters) if at > now and is_open(window, zone, now=at))


def text_of_moment(at: float) -> str:
    """A moment in sentences that people of several zones read."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _local(zone: str, now: float) -> datetime:
    return datetime.fromtimestamp(now, find_zone(zone) or UTC)
