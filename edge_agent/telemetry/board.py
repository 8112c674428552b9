"""Readings of the board: temperature, throttling, memory. What a board does not have is None."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

SYS = Path("/sys")
PROC = Path("/proc")
_THROTTLED_NOW = 0xF  # under-voltage, frequency capped, throttled, soft temperature limit: bits 0 to 3
_RASPBERRY_THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"


@dataclass(frozen=True, slots=True)
class BoardReading:
    """One look at the board."""

    temperature_c: float | None = None
    throttled: bool | None = None


def parse_throttled(text: str) -> bool | None:
    """Raspberry Pi firmware: `throttled=0x50000` or `50000`; only what holds now counts."""
    value = text.strip().rpartition("=")[2].removeprefix("0x")
    try:
        return bool(int(value, 16) & _THROTTLED_NOW)
    except ValueError:
        return None


def parse_memory_available_bytes(meminfo: str) -> int | None:
    """`MemAvailable` of /proc/meminfo."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            with contextlib.suppress(IndexError, ValueError):
                return int(line.split()[1]) * 1024
    return None


def read_board(sys: Path = SYS) -> BoardReading:
    """The hottest thermal zone, and whether the processor is held back."""
    temperatures = []
    for path in sys.glob("class/thermal/thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            degrees = int(path.read_text()) / 1000
            if -50 < degrees < 200:  # noqa: PLR2004  what a sensor can mean
                temperatures.append(degrees)
    throttled = None
    with contextlib.suppress(OSError):
        throttled = parse_throttled((sys / _RASPBERRY_THROTTLED).read_text())
    return BoardReading(max(temperatures, default=None), throttled)


def memory_available_bytes(proc: Path = PROC) -> int | None:
    """What new processes can have without swapping."""
    with contextlib.suppress(OSError):
        return parse_memory_available_bytes((proc / "meminfo").read_text())
    return None


def memory_total_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def rss_bytes(pid: int, proc: Path = PROC) -> int:
    """Resident memory of a process; 0 when it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (proc / str(pid) / "status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
