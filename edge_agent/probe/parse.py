"""Pure parsers of what the kernel tells: texts in, facts out."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.protocol.profile import Arch, CpuFeature, NpuKind

# (implementer, part) of the main ID register -> core. Source: Arm MIDR_EL1 part numbers, as the Linux kernel lists them
# in arch/arm64/include/asm/cputype.h.
_ARM_CORES = {
    (0x41, 0xC07): "Cortex-A7",
    (0x41, 0xC08): "Cortex-A8",
    (0x41, 0xC09): "Cortex-A9",
    (0x41, 0xC0F): "Cortex-A15",
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x4E, 0x004): "NVIDIA Carmel",
}
# Later in this list is the faster core: where a chip mixes them, the profile is named by its fastest.
_BY_SPEED = tuple(_ARM_CORES.values())

_ARM_FEATURES = {
    "asimddp": CpuFeature.DOTPROD,
    "asimdhp": CpuFeature.FP16,
    "fphp": CpuFeature.FP16,
    "i8mm": CpuFeature.I8MM,
    "bf16": CpuFeature.BF16,
    "atomics": CpuFeature.LSE,
    "sve": CpuFeature.SVE,
}
_X86_FEATURES = {
    "avx2": CpuFeature.AVX2,
    "avx512f": CpuFeature.AVX512,
    "avx512_vnni": CpuFeature.AVX512_VNNI,
}
_DEVICE_TREE_NPUS = {
    "arm,ethos-u55": NpuKind.ETHOS_U55,
    "arm,ethos-u65": NpuKind.ETHOS_U65,
    "arm,ethos-u85": NpuKind.ETHOS_U85,
    "rockchip,rk3588-rknn-core": NpuKind.RKNPU2,  # the mainline kernel's binding
    "rockchip,rk3588-rknpu": NpuKind.RKNPU2,
}


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What /proc/cpuinfo says."""

    model: str
    cores: int
    features: frozenset[CpuFeature]


def parse_cpuinfo(text: str) -> CpuFacts:
    """Read /proc/cpuinfo of Arm or x86; a text that says nothing gives an unknown CPU with one core."""
    processors, arm_parts, names, flags = 0, [], [], None
    implementer = 0
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if key == "processor":
            processors += 1
        elif key == "CPU implementer":
            implementer = _number(value)
        elif key == "CPU part":
            arm_parts.append((implementer, _number(value)))
        elif key.lower() == "model name":
            names.append(value)
        elif key in ("Features", "flags"):
            words = frozenset(value.split())
            flags = words if flags is None else flags & words  # a program may run on any core
    table = _ARM_FEATURES | _X86_FEATURES
    features = frozenset(table[word] for word in flags or () if word in table)
    return CpuFacts(_core_name(arm_parts, names), max(processors, 1), features)


def parse_memory_total_bytes(meminfo: str) -> int | None:
    """`MemTotal` of /proc/meminfo."""
    for line in meminfo.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "MemTotal:" and words[1].isdigit():
            return int(words[1]) * 1024
    return None


def parse_board_model(device_tree_model: bytes) -> str:
    """The device tree's name of the board, which ends with a zero byte; empty where there is none."""
    return device_tree_model.partition(b"\0")[0].decode(errors="replace").strip()[:128]


def parse_arch(machine: str) -> Arch | None:
    """`uname -m`; a 32-bit Arm user land may run under several names."""
    if machine in ("armv7l", "armv6l", "armv8l"):
        return Arch.ARMV7L
    return next((arch for arch in Arch if arch.value == machine), None)


def find_npu(device_nodes: frozenset[str], compatibles: frozenset[str]) -> NpuKind | None:
    """The neural processor, from the names in /dev and the device tree's `compatible` strings.

    Args:
        device_nodes: names below /dev.
        compatibles: strings of the device tree.
    """
    for compatible, kind in _DEVICE_TREE_NPUS.items():
        if compatible in compatibles:
            return kind
    for prefix, kind in (("apex_", NpuKind.EDGE_TPU), ("hailo", NpuKind.HAILO_8L), ("rknpu", NpuKind.RKNPU2)):
        if any(node.startswith(prefix) for node in device_nodes):
            return kind
    return NpuKind.ETHOS_U65 if any(node.startswith("ethosu") for node in device_nodes) else None


def profile_name(text: str) -> str:
    """A name for a profile from the name of a board or a CPU."""
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    parts = [part for part in kept.split("-") if part and part not in ("model", "rev", "r", "tm", "cpu")]
    return "-".join(parts)[:48].strip("-") or "unknown"


def _core_name(arm_parts: list[tuple[int, int]], names: list[str]) -> str:
    known = [_ARM_CORES[part] for part in arm_parts if part in _ARM_CORES]
    if known:
        return max(known, key=_BY_SPEED.index)
    if names:
        return names[0][:128] or "unknown"
    if arm_parts:
        implementer, part = arm_parts[0]
        return f"Arm implementer {implementer:#x} part {part:#x}"
    return "unknown"


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0
