"""The power goes after any of the agent's calls: whatever the disk has kept, the device serves and ends its update."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.faults.disk import Cut, Disk, lay_out
from tests.faults.points import go_through

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.record import Call
    from tests.faults.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class PowerCut:
    after: int
    last: str
    lost: Cut
    left: dict[str, bytes | None]

    def __str__(self) -> str:
        return f"after call {self.after} ({self.last}), {self.lost} lost"


def power_cuts(
    scene: Scene, recorded: list[Call], *, unsynced: Callable[[Call], bool] | None = None
) -> Iterator[PowerCut]:
    """Every different folder that a cut can leave; the fsyncs that `unsynced` names are taken out of the agent."""
    root = scene.folder / "at" / "agent"
    disk = Disk(scene.baseline, root=root)
    seen: set[int] = set()
    for index, call in enumerate(recorded):
        if (unsynced is not None and unsynced(call)) or not disk.apply(call):
            continue
        for lost in Cut:
            left = disk.left(lost, seed=index)
            if (key := hash(tuple(sorted(left.items())))) not in seen:
                seen.add(key)
                yield PowerCut(index, f"{call.name} {call.path.removeprefix(str(root))}", lost, left)


def expect_survived(scene: Scene, cut: PowerCut) -> str:
    device = scene.fresh()
    shutil.rmtree(device.root)
    lay_out(cut.left, device.root)
    scene.expect_mended(device)
    return cut.lost


def test_agent_after_a_power_cut_at_any_of_its_calls_serves_offline_and_ends_its_update(
    scene: Scene, recorded: list[Call], capfd: pytest.CaptureFixture[str]
) -> None:
    points = list(power_cuts(scene, recorded))
    assert len(points) > 150
    go_through("power cuts", points, lambda cut: expect_survived(scene, cut), terminal=capfd)


def test_first_variant_of_a_device_is_there_after_a_power_cut(scene: Scene) -> None:
    """Its folders are new too: their names must be as safe as the state that speaks of what is in them."""
    recorded = scene.record(scene.joined)
    disk = Disk(scene.joined, root=scene.folder / "at" / "agent")
    for call in recorded:
        disk.apply(call)
    cut = PowerCut(len(recorded), "the last", Cut.ALL, disk.left(Cut.ALL, seed=1))
    assert expect_survived(scene, cut) == Cut.ALL


@pytest.mark.parametrize("file", ["/model", "/manifest.json"])
def test_agent_that_spared_one_fsync_of_a_variant_would_not_survive_every_cut(
    scene: Scene, recorded: list[Call], file: str
) -> None:
    """So the points above prove something: without this fsync, at least one of them fails."""
    spared = power_cuts(
        scene,
        recorded,
        unsynced=lambda call: call.name == "fsync" and ".new-" in call.path and call.path.endswith(file),
    )
    last = [cut for cut in spared if cut.lost is Cut.CONTENT][-1]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        expect_survived(scene, last)
