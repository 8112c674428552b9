"""The registry goes and comes back, the device does without it: nothing is fetched twice, nothing stops serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.e2e.load import SteadyLoad
from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet
    from tests.processes import RunningAgent


def bytes_received(agent: RunningAgent) -> int:
    """What the active deployment has cost on the network."""
    return int(next(d["bytes_received"] for d in agent.status()["deployments"] if d["state"] == "active"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sigterm", "kill_up"])
def test_registry_restarted_as_a_whole_devices_reconnect_and_fetch_nothing_again(
    fleet: Fleet, tiny_model: TinyModel, how: str
) -> None:
    agent = fleet.join("till-1")
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1"))
    before = bytes_received(agent)
    with SteadyLoad(agent, "tiny", tiny_model.rows) as load:
        wait_until(lambda: load.total > 20, "it answers")
        if how == "sigterm":
            fleet.registry.stop()
        else:
            fleet.registry.kill_up()
        wait_until(lambda: not agent.status()["connected"], "the device has noticed")
        served = load.total
        wait_until(lambda: load.total > served + 50, "it serves without a registry")
        fleet.registry.start()
        wait_until(lambda: agent.status()["connected"], "the device is back")
    assert load.failures == []
    fleet.wait_online(agent)
    fleet.wait_counted({agent.device_id: load.total})
    assert bytes_received(agent) == before
    fleet.wait_for(fleet.roll_out("2"))
    assert agent.serves("tiny", "2")


@pytest.mark.slow
def test_agent_restarted_without_a_registry_serves_its_variant_and_reports_later(
    fleet: Fleet, tiny_model: TinyModel
) -> None:
    agent = fleet.join("till-1")
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1"))
    before = bytes_received(agent)
    fleet.registry.stop()
    agent.stop()
    agent.start()
    wait_until(lambda: agent.serves("tiny", "1"), "it serves what it had")
    answer = agent.infer("tiny", tiny_model.rows)
    np.testing.assert_allclose(answer["outputs"][0]["data"], tiny_model.expected("1").ravel(), atol=0.15)
    assert bytes_received(agent) == before
    fleet.registry.start()
    fleet.wait_online(agent)
    fleet.wait_counted({agent.device_id: len(tiny_model.rows)})
