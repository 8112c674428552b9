"""kill -9 at every call that changes the disk, by strace: at the supervisor's and at its unpacking's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.faults.points import go_through
from tests.faults.record import CHANGING
from tests.faults.scene import died, start, state_changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.record import Call
    from tests.faults.scene import Scene


@dataclass(frozen=True)
class Kill:
    name: str
    ordinal: int
    unpacking: bool
    state: str

    def __str__(self) -> str:
        who = "unpacking" if self.unpacking else "supervisor"
        return f"{who} killed at its {self.name} {self.ordinal}, {self.state}"

    @property
    def flags(self) -> tuple[str, ...]:
        only = ("-o", "/dev/null", "-e", f"trace={self.name}")
        return (*only, "-e", f"inject={self.name}:signal=KILL:when={self.ordinal}")


def kills(scene: Scene, recorded: list[Call]) -> Iterator[Kill]:
    """A kill before each call that changes something in the device's folder."""
    root = str(scene.folder / "at" / "agent")
    supervisor = recorded[0].task
    unpacking = next(call.task for call in recorded if "/.new-" in call.path)
    changes, state = dict(state_changes(recorded)), "starting"
    for index, call in enumerate(recorded):
        state = changes.get(index, state)
        if call.name in CHANGING and call.path.startswith(root) and call.task in (supervisor, unpacking):
            yield Kill(call.name, call.ordinal, call.task == unpacking, state)


def expect_survived(scene: Scene, kill: Kill) -> str:
    device = scene.fresh()
    start(device, **({"unpacking": kill.flags} if kill.unpacking else {"strace": kill.flags}))
    hit = died(device, timeout_s=6)
    device.kill()
    scene.expect_mended(device)
    return kill.state if hit else "not reached in this run"


def test_agent_killed_when_a_variant_is_renamed_into_place_ends_its_update(scene: Scene, recorded: list[Call]) -> None:
    point = next(kill for kill in kills(scene, recorded) if kill.unpacking and kill.name == "rename")
    assert expect_survived(scene, point) == "verifying"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_agent_killed_at_any_call_serves_offline_and_ends_its_update(
    scene: Scene, recorded: list[Call], capfd: pytest.CaptureFixture[str]
) -> None:
    points = list(kills(scene, recorded))
    assert len(points) > 80
    go_through("kills", points, lambda kill: expect_survived(scene, kill), terminal=capfd)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_agent_killed_at_any_call_while_a_version_lies_ready_serves_offline_and_activates_it(
    staging_scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    points = list(kills(staging_scene, staging_scene.record()))
    assert len(points) > 80
    go_through("kills while staging", points, lambda kill: expect_survived(staging_scene, kill), terminal=capfd)
