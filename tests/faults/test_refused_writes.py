"""A disk that is full or broken from some call on, by strace: what serves goes on serving, and nothing is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.edge_agent.surroundings.waiting import until
from tests.faults.points import go_through
from tests.faults.record import CHANGING
from tests.faults.scene import start, state_changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.record import Call
    from tests.faults.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

REFUSED = tuple(
    name for name in CHANGING if name != "write"
)  # the supervisor's `write` is also its pipes' and its log's


@dataclass(frozen=True)
class Refusal:
    error: str
    state: str
    from_ordinals: tuple[tuple[str, int], ...]  # of each call, counted from 1
    for_good: bool
    unpacking: bool = False

    def __str__(self) -> str:
        who = "unpacking" if self.unpacking else "supervisor"
        how_long = "until the restart" if self.for_good else "once for each kind of call"
        return f"{self.error} {how_long} in {self.state}, {who} {self.from_ordinals}"

    @property
    def flags(self) -> tuple[str, ...]:
        injected = []
        for name, first in self.from_ordinals:
            when = f"{first}+" if self.for_good else str(first)
            injected += ["-e", f"inject={name}:error={self.error}:when={when}"]
        return ("-o", "/dev/null", "-e", f"trace={','.join(name for name, _ in self.from_ordinals)}", *injected)


def refusals(scene: Scene, recorded: list[Call]) -> Iterator[Refusal]:
    """From the beginning of each state, and from the first change of each kind in it."""
    root = str(scene.folder / "at" / "agent")
    supervisor = recorded[0].task
    changes = dict(state_changes(recorded))
    state, done = "", set[tuple[str, str]]()
    for index, call in enumerate(recorded):
        state = changes.get(index, state)
        if call.task == supervisor and call.name in REFUSED and call.path.startswith(root) and state:
            kind = (state, call.name)
            if kind not in done:
                done.add(kind)
                ordinals = tuple(_from(recorded[index:], supervisor))
                for error in ("ENOSPC", "EIO"):
                    for for_good in (True, False):
                        yield Refusal(error, state, ordinals, for_good)
    for name in ("mkdir", "write", "fsync", "rename"):
        for error in ("ENOSPC", "EIO"):
            yield Refusal(error, "verifying", ((name, 1),), for_good=False, unpacking=True)


def _from(rest: list[Call], task: int) -> Iterator[tuple[str, int]]:
    """The ordinals with which a thread's calls go on; kinds that it makes no more are left alone."""
    for name in REFUSED:
        following = [call.ordinal for call in rest if call.task == task and call.name == name]
        if following:
            yield name, following[0]


def expect_survived(scene: Scene, point: Refusal) -> str:
    """Where the disk takes something again, no restart may be needed; where it does not, a restart mends it."""
    device = scene.fresh()
    start(device, **({"unpacking": point.flags} if point.unpacking else {"strace": point.flags}))
    until(device.infer, timeout_s=20, what=lambda: f"an answer\n{device.log}")
    if point.for_good:
        for _ in range(8):
            time.sleep(0.2)
            assert device.infer(), f"nothing answers\n{device.log}"
        assert device.process is not None
        assert device.process.poll() is None, device.log
    elif not point.unpacking:
        scene.registry.expect_serving("d2", timeout_s=30)
        device.expect_answer("2")
    device.kill()
    scene.expect_mended(device)
    return f"{point.state} {point.error}"


def test_agent_whose_disk_refuses_from_any_state_on_serves_and_ends_its_update(
    scene: Scene, recorded: list[Call], capfd: pytest.CaptureFixture[str]
) -> None:
    points = list(refusals(scene, recorded))
    assert len(points) > 40
    go_through("refused writes", points, lambda point: expect_survived(scene, point), terminal=capfd)
