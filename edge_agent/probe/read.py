"""The thin reader: looks at this machine and hands the texts to the parsers."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError
from edge_agent.probe import parse
from edge_agent.protocol.profile import Arch, Cpu, DeviceProfile, Npu, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Sequence

_FALLBACK_RAM_BYTES = 512 << 20
_STORAGE_SHARE = 0.25  # of what is free now: the rest of the system wants to live too


class ProbeError(EdgeAgentError):
    """This machine is none that Shoal knows."""

    code = "unknown_machine"


def probe(
    *, data_dir: Path, runtimes: Sequence[RuntimeName], name: str | None = None, root: Path = Path("/")
) -> DeviceProfile:
    """Describe this machine as a profile.

    Args:
        data_dir: where the agent would keep its files: the storage there counts.
        runtimes: the inference runtimes that are installed.
        name: of the profile; by default from the board's or the CPU's name.
        root: of the file system to look at.

    Raises:
        ProbeError: an architecture that Shoal does not know.
    """
    arch = parse.parse_arch(platform.machine())
    if arch is None:
        known = ", ".join(Arch)
        raise ProbeError(f"this machine is {platform.machine()}: Shoal knows {known}")
    facts = parse.parse_cpuinfo(_text(root / "proc/cpuinfo"))
    board = parse.parse_board_model(_bytes(root / "proc/device-tree/model"))
    kind = parse.find_npu(_names(root / "dev"), _compatibles(root / "proc/device-tree"))
    title = board or facts.model
    return DeviceProfile(
        name=name or parse.profile_name(title),
        description=f"{title}, probed"[:256],
        arch=arch,
        cpu=Cpu(model=facts.model, cores=facts.cores, max_mhz=_max_mhz(root), features=facts.features),
        ram_bytes=parse.parse_memory_total_bytes(_text(root / "proc/meminfo")) or _FALLBACK_RAM_BYTES,
        storage_bytes=_storage_bytes(data_dir),
        npu=None if kind is None else Npu(kind=kind),
        runtimes=tuple(runtimes) or (RuntimeName.TFLITE if arch is Arch.ARMV7L else RuntimeName.LITERT,),
        threads=min(facts.cores, 4),
        sources=("edge-agent probe on the device itself",),
    )


def facts_of_this_machine(data_dir: Path) -> dict[str, str]:
    """What a device tells the registry when it joins, as texts; nothing that names its owner."""
    facts = parse.parse_cpuinfo(_text(Path("/proc/cpuinfo")))
    found = {
        "arch": platform.machine(),
        "cpu_model": facts.model,
        "cpu_cores": str(facts.cores),
        "cpu_features": " ".join(sorted(facts.features)),
        "ram_bytes": str(parse.parse_memory_total_bytes(_text(Path("/proc/meminfo"))) or ""),
        "storage_bytes": str(_storage_bytes(data_dir)),
        "board": parse.parse_board_model(_bytes(Path("/proc/device-tree/model"))),
    }
    return {name: text[:256] for name, text in found.items() if text}


def _storage_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    stats = os.statvfs(folder)
    return max(1, int(stats.f_bavail * stats.f_frsize * _STORAGE_SHARE))


def _max_mhz(root: Path) -> int | None:
    fastest = 0
    for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"):
        with contextlib.suppress(OSError, ValueError):
            fastest = max(fastest, int(path.read_text()) // 1000)
    return fastest if 1 <= fastest <= 100_000 else None  # noqa: PLR2004  the profile's own bound


def _compatibles(device_tree: Path) -> frozenset[str]:
    found: set[str] = set()
    # NPUs sit directly on the SoC bus: two levels below the root of the tree
    for pattern in ("*/compatible", "*/*/compatible"):
        for path in device_tree.glob(pattern):
            found.update(part.decode(errors="replace") for part in _bytes(path).split(b"\0") if part)
    return frozenset(found)


def _names(folder: Path) -> frozenset[str]:
    with contextlib.suppress(OSError):
        return frozenset(entry.name for entry in folder.iterdir())
    return frozenset()


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace")


def _bytes(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""
