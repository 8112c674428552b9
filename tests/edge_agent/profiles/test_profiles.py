"""Profiles that come with Shoal, and profiles that people write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.profiles import ProfileError, dump_profile, load_profile, well_known

if TYPE_CHECKING:
    from edge_agent.protocol.profile import DeviceProfile

GOOD = """
name: my-board
arch: aarch64
cpu: {model: Cortex-A72, cores: 4}
ram_bytes: 1000000000
storage_bytes: 1000000000
runtimes: [litert]
"""


def test_well_known_has_the_boards_of_the_design_each_with_sources() -> None:
    profiles = well_known()
    assert sorted(profiles) == ["imx93", "pi-3b-plus", "pi-4", "pi-5", "pi-zero-2w", "rk3588", "x86-64"]
    for name, profile in profiles.items():
        assert profile.name == name
        assert profile.sources
        assert profile.limits.ram_bytes


@pytest.mark.parametrize("profile", well_known().values(), ids=lambda p: p.name)
def test_dump_of_a_profile_is_read_as_the_same(profile: DeviceProfile) -> None:
    assert load_profile(dump_profile(profile)) == profile


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("ram_bytes: 1000000000", "ram_bytes: -5", "ram_bytes is -5: it should be greater"),
        (
            "name: my-board",
            "name: my-board\nnpu: warp-drive",
            "npu is 'warp-drive': it should be a mapping of names to values",
        ),
        ("runtimes: [litert]", "runtimes: [tensorrt]", "runtimes.0 is 'tensorrt'"),
        ("runtimes: [litert]", "runtimes: [litert]\nnpu: {kind: warp-drive}", "npu.kind is 'warp-drive'"),
        ("name: my-board", "name: my-board\ncolour: red", "unknown field colour"),
        ("name: my-board", "name: my-board\nname: other", "line 3: 'name' is there twice"),
        ("name: my-board", "name: ../etc", "name is '../etc'"),
        ("arch: aarch64\n", "", "lacks the field arch"),
        ("cores: 4", "cores: 4, features: [warp]", "cpu.features"),
        ("ram_bytes: 1000000000", "ram_bytes: 1000000000\nthreads: 9", "but the CPU has 4 cores"),
    ],
)
def test_load_of_a_profile_with_a_mistake_names_it_in_one_sentence(old: str, new: str, sentence: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(GOOD.replace(old, new))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "- a\n- list",
        "name: [unclosed",
        "a: &x [1]\nb: *x",
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]",
        "!!python/object/apply:os.system ['true']",
        "name: " + "x" * 100_000,
        "[" * 5000,
        "\0",
        "? {a: 1}\n: b",
    ],
    ids=["empty", "text", "list", "unclosed", "alias", "bomb", "object", "huge", "deep", "nul", "odd-key"],
)
def test_load_of_something_else_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile(text)
    assert "\n" not in str(caught.value)
