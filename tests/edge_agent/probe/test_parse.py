"""What kernels of real boards print, and what we make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.probe import parse
from edge_agent.profiles import load_profile
from edge_agent.protocol.profile import Arch, CpuFeature, NpuKind

A53 = "fp asimd evtstrm crc32 cpuid"
A72 = "fp asimd evtstrm crc32 cpuid"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


def arm(parts: list[int], features: str, tail: str = "") -> str:
    """Cores as arm64 kernels print them."""
    blocks = [
        f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#x}\nCPU revision\t: 3\n"
        for i, part in enumerate(parts)
    ]
    return "\n".join(blocks) + tail


PI = "\nHardware\t: BCM2835\nRevision\t: c03112\n"
PI += "Serial\t\t: 10000000deadbeef\nModel\t\t: Raspberry Pi 4 Model B Rev 1.2\n"
X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
flags\t\t: fpu vme avx avx2 avx512f avx512_vnni sse4_2

processor\t: 1
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz
flags\t\t: fpu vme avx avx2 avx512f avx512_vnni sse4_2
"""
FAST = frozenset({CpuFeature.DOTPROD, CpuFeature.FP16, CpuFeature.LSE})


@pytest.mark.parametrize(
    ("text", "model", "cores", "features"),
    [
        (arm([0xD03] * 4, A53, PI), "Cortex-A53", 4, frozenset()),
        (arm([0xD08] * 4, A72, PI), "Cortex-A72", 4, frozenset()),
        (arm([0xD0B] * 4, A76), "Cortex-A76", 4, FAST),
        (arm([0xD05] * 4 + [0xD0B] * 4, A76), "Cortex-A76", 8, FAST),
        (
            X86,
            "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
            2,
            frozenset({CpuFeature.AVX2, CpuFeature.AVX512, CpuFeature.AVX512_VNNI}),
        ),
        (arm([0xFFF], "fp asimd i8mm bf16 sve"), "Arm implementer 0x41 part 0xfff", 1, None),
        ("", "unknown", 1, frozenset()),
    ],
    ids=["pi-zero-2w-and-3b-plus", "pi-4", "pi-5", "rk3588", "x86", "unknown-core", "empty"],
)
def test_parse_cpuinfo_gives_core_count_and_features(
    text: str, model: str, cores: int, features: frozenset[CpuFeature] | None
) -> None:
    facts = parse.parse_cpuinfo(text)
    assert (facts.model, facts.cores) == (model, cores)
    if features is not None:
        assert facts.features == features


def test_parse_cpuinfo_of_cores_that_differ_keeps_what_all_have() -> None:
    text = arm([0xD05], "asimddp atomics") + "\n" + arm([0xD0B], "asimddp i8mm")
    assert parse.parse_cpuinfo(text).features == {CpuFeature.DOTPROD}


@given(st.text(max_size=500))
def test_parsers_of_any_text_raise_nothing(text: str) -> None:
    assert parse.parse_cpuinfo(text).cores >= 1
    parse.parse_memory_total_bytes(text)
    parse.parse_board_model(text.encode(errors="replace"))
    assert load_profile(
        f"name: {parse.profile_name(text)!r}\narch: aarch64\ncpu: {{model: x, cores: 1}}\n"
        "ram_bytes: 1\nstorage_bytes: 1\nruntimes: [litert]"
    )


def test_parse_memory_total_reads_kibibytes() -> None:
    assert parse.parse_memory_total_bytes("MemTotal:         437500 kB\nMemFree: 1 kB\n") == 437500 * 1024
    assert parse.parse_memory_total_bytes("nothing") is None


@pytest.mark.parametrize(
    ("machine", "arch"),
    [
        ("aarch64", Arch.AARCH64),
        ("armv7l", Arch.ARMV7L),
        ("armv8l", Arch.ARMV7L),
        ("x86_64", Arch.X86_64),
        ("riscv64", None),
    ],
)
def test_parse_arch_knows_what_shoal_knows(machine: str, arch: Arch | None) -> None:
    assert parse.parse_arch(machine) is arch


@pytest.mark.parametrize(
    ("nodes", "compatibles", "kind"),
    [
        ({"ethosu0"}, set(), NpuKind.ETHOS_U65),
        ({"ethosu0"}, {"arm,ethos-u85"}, NpuKind.ETHOS_U85),
        (set(), {"rockchip,rk3588-rknpu"}, NpuKind.RKNPU2),
        (set(), {"rockchip,rk3588-rknn-core"}, NpuKind.RKNPU2),
        ({"apex_0"}, set(), NpuKind.EDGE_TPU),
        ({"hailo0"}, set(), NpuKind.HAILO_8L),
        ({"null", "tty0"}, {"raspberrypi,4-model-b"}, None),
    ],
)
def test_find_npu_by_nodes_and_device_tree(nodes: set[str], compatibles: set[str], kind: NpuKind | None) -> None:
    assert parse.find_npu(frozenset(nodes), frozenset(compatibles)) is kind


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.2", "raspberry-pi-4-b-1-2"),
        ("Radxa ROCK 5B", "radxa-rock-5b"),
        ("🐟🐟", "unknown"),
        ("", "unknown"),
        ("x" * 200, "x" * 48),
    ],
)
def test_profile_name_is_always_a_name(board: str, name: str) -> None:
    assert parse.profile_name(board) == name


def test_parse_board_model_ends_at_the_zero_byte() -> None:
    assert parse.parse_board_model(b"Raspberry Pi 5 Model B Rev 1.0\0") == "Raspberry Pi 5 Model B Rev 1.0"
