"""A registry is lost with everything that happened since its backup, and comes back on its ports to a living fleet."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet
    from tests.processes import RunningAgent


@pytest.mark.slow
def test_fleet_follows_a_registry_that_was_restored_from_before_it_went_on(
    fleet: Fleet, folder: Path, tiny_model: TinyModel
) -> None:
    first, second = (fleet.join(f"till-{number}") for number in (1, 2))
    fleet.wait_online(first, second)
    fleet.wait_for(fleet.roll_out("1"))
    for agent in (first, second):
        agent.infer("tiny", tiny_model.rows)
    before = len(tiny_model.rows)
    fleet.wait_counted({first.device_id: before, second.device_id: before})

    # the backup: version 2 is on its way, and one device of two has it, not proven by as many inferences as are wanted
    rollout_id = fleet.roll_out("2", waves="1,100%", probe_inferences=before)
    has_it = wait_until(lambda: next((a for a in (first, second) if a.serves("tiny", "2")), None), "the first has it")
    other = second if has_it is first else first
    done = fleet.registry.cli_here("backup", folder / "backup")
    assert done.returncode == 0, done.stderr

    # then more happens: all of it is undone, counted and acknowledged, and a device joins
    fleet.registry.cli("rollout", "rollback", rollout_id)
    fleet.wait_for(rollout_id, "rolled_back")
    wait_until(lambda: has_it.serves("tiny", "1"), "it is back")
    other.infer("tiny", tiny_model.rows)
    fleet.wait_counted({other.device_id: 2 * before})
    late = fleet.join("till-3")
    fleet.wait_online(late)

    # everything of the registry is lost; while it is away, the devices work and keep what they measure
    fleet.registry.kill_up()
    shutil.rmtree(fleet.registry.data_dir)
    has_it.infer("tiny", tiny_model.rows)
    new = replace(fleet.registry, data_dir=folder / "restored")
    done = new.cli_here("restore", folder / "backup")
    assert done.returncode == 0, done.stderr
    assert fleet.registry.cli_here("backup", folder / "backup", "--check").returncode == 0
    fleet.registry = new
    new.start()

    # the rollout goes on where the backup saw it, and the devices obey the new epoch
    fleet.wait_online(first, second)
    for agent in (has_it, other):
        wait_until(partial(agent.serves, "tiny", "2"), f"{agent.device_id} has version 2 again")
        agent.infer("tiny", tiny_model.rows)
    finished = fleet.wait_for(rollout_id)
    assert {row.state for row in finished.deployments} == {"running"}
    # what was acknowledged after the backup is gone with it; what the devices still had is counted, once
    fleet.wait_counted({has_it.device_id: 3 * before, other.device_id: 2 * before})
    _is_told_to_join_again(late)
    fleet.wait_for(fleet.roll_out("1"))
    # while it leaves, a runner still answers who reaches it
    wait_until(lambda: all(agent.serves("tiny", "1") for agent in (first, second)), "a new rollout reaches them")


def _is_told_to_join_again(late: RunningAgent) -> None:
    wait_until(lambda: "join again with a new token" in late.log_path.read_text(), "it is told what to do")
    assert late.status()["complaints"]["registry.unknown_device"] >= 1
