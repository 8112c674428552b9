"""The machine at this moment: memory, disk, clock, load, temperature, and the profile that a probe would write."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.errors import EdgeAgentError
from edge_agent.probe.read import probe
from edge_agent.runtimes.registry import installed_runtimes
from edge_agent.telemetry import board

if TYPE_CHECKING:
    from edge_agent.layout import Layout

PROC = Path("/proc")
SYNCHRONIZED = Path("/run/systemd/timesync/synchronized")  # systemd-timesyncd has heard a server since the start


def machine(layout: Layout, *, now: float) -> dict[str, Any]:
    """Look at the machine.

    Args:
        layout: whose disk counts.
        now: seconds since 1970 by its clock.
    """
    reading = board.read_board()
    return {
        "profile": _profile(layout),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "memory_total_bytes": board.memory_total_bytes(),
        "memory_available_bytes": board.memory_available_bytes(),
        "disk": _disk(layout.root),
        "clock_s": now,
        "clock_synchronized": SYNCHRONIZED.exists(),
        "clock_zone": time.strftime("%z"),
        "uptime_s": _first_number(PROC / "uptime"),
        "load_1_min": _first_number(PROC / "loadavg"),
        "temperature_c": reading.temperature_c,
        "throttled": reading.throttled,
    }


def _profile(layout: Layout) -> dict[str, Any]:
    try:
        found = probe(data_dir=layout.root, runtimes=tuple(installed_runtimes()))
    except EdgeAgentError as exc:
        return {"error": str(exc)}
    return found.model_dump(mode="json", exclude_none=True)


def _disk(root: Path) -> dict[str, Any]:
    try:
        stats = os.statvfs(root)
    except OSError as exc:
        return {"error": exc.strerror}
    return {
        "size_bytes": stats.f_blocks * stats.f_frsize,
        "free_bytes": stats.f_bavail * stats.f_frsize,
        "free_inodes": stats.f_favail,
        "read_only": bool(stats.f_flag & os.ST_RDONLY),
    }


def _first_number(path: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return float(path.read_text().split()[0])
    return None
