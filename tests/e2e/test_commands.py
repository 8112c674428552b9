"""What an operator says to a rollout and of a device, in the words of the command line, with real devices below."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet
    from tests.processes import RunningAgent


def test_rollout_is_paused_resumed_rolled_back_and_aborted_and_a_device_is_removed(
    fleet: Fleet, tiny_model: TinyModel
) -> None:
    agents = [fleet.join(f"till-{number}") for number in (1, 2)]
    fleet.wait_online(*agents)
    fleet.wait_for(fleet.roll_out("1"))
    received = {agent.device_id: _received(fleet, agent, "1") for agent in agents}
    said = fleet.registry.cli

    # paused after the first of two devices: the second keeps version 1 until it is resumed
    rollout_id = fleet.roll_out("2", waves="1,100%", probe_inferences=1)
    wait_until(lambda: fleet.rollout(rollout_id).state == "running", "the rollout runs")
    assert said("rollout", "pause", rollout_id).returncode == 0
    fleet.wait_for(rollout_id, "paused")
    first = wait_until(lambda: next((a for a in agents if a.serves("tiny", "2")), None), "the first wave has it")
    second = next(agent for agent in agents if agent is not first)
    assert second.serves("tiny", "1")
    assert said("rollout", "resume", rollout_id).returncode == 0
    for agent in (first, second):
        wait_until(partial(agent.serves, "tiny", "2"), f"{agent.device_id} has version 2")
        assert agent.infer("tiny", tiny_model.rows)["model_version"] == "2"
    fleet.wait_for(rollout_id)

    # back to what ran before, without a download
    assert said("rollout", "rollback", rollout_id).returncode == 0
    fleet.wait_for(rollout_id, "rolled_back")
    for agent in agents:
        assert agent.serves("tiny", "1"), f"{agent.device_id} is back: the word is said after the deed"
        assert _received(fleet, agent, "1") in {0, received[agent.device_id]}
        # while it leaves, a runner still answers who reaches it
        wait_until(lambda: not any(a.serves("tiny", "2") for a in agents), "version 2 has left")

    # aborted: who has it keeps it, nobody else gets it
    rollout_id = fleet.roll_out("2", waves="1,100%", probe_inferences=1)
    kept = wait_until(lambda: next((a for a in agents if a.serves("tiny", "2")), None), "the first wave has it")
    # an abort withdraws what has not been reported yet: wait until the registry has heard, too
    wait_until(lambda: _state_of(fleet, rollout_id, kept) == "active", "the registry knows that the first wave has it")
    assert said("rollout", "abort", rollout_id).returncode == 0
    fleet.wait_for(rollout_id, "aborted")
    shown = said("rollout", "status", rollout_id)
    assert shown.returncode == 0
    assert "aborted" in shown.stdout
    other = next(agent for agent in agents if agent is not kept)
    assert kept.serves("tiny", "2")
    assert other.serves("tiny", "1")

    # a removed device is refused, and what runs on it goes on
    assert said("device", "retire", other.device_id).returncode == 0
    listed = json.loads(said("device", "list", "--json").stdout)
    assert [device["device_id"] for device in listed] == [kept.device_id]
    assert other.serves("tiny", "1")


def _state_of(fleet: Fleet, rollout_id: str, agent: RunningAgent) -> str:
    """What the registry holds of one device in a rollout."""
    with fleet.registry.client() as client:
        deployments = client.get_rollout(rollout_id).deployments
    return next((d.state for d in deployments if d.device_id == agent.device_id), "unknown")


def _received(fleet: Fleet, agent: RunningAgent, version: str) -> int:
    """Bytes that a version cost this device."""
    with fleet.registry.client() as client:
        status = client.get_device(agent.device_id).status
    assert status is not None
    return next(d.bytes_received for d in status.deployments if d.version == version)
