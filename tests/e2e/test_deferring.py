"""An app asks for time: its device waits under load, the rollout says for whom, and nothing is lost at the swap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.defer import defer, release
from edge_agent.layout import Layout
from tests.e2e.load import SteadyLoad
from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet


def test_rollout_waits_for_an_app_tells_for_whom_and_swaps_without_a_failed_request(
    fleet: Fleet, tiny_model: TinyModel
) -> None:
    till, kiosk = fleet.join("till"), fleet.join("kiosk")
    fleet.wait_online(till, kiosk)
    fleet.wait_for(fleet.roll_out("1"))
    layout = Layout(till.data_dir)
    with SteadyLoad(till, "tiny", tiny_model.rows) as load:
        token = defer(layout, for_s=600, reason="checkout running", model="tiny").token
        rollout = fleet.roll_out("2")
        wait_until(lambda: "1 device defers the swap" in fleet.rollout(rollout).reason, "the rollout tells who defers")
        told = fleet.rollout(rollout)
        waiting = next(one for one in told.deployments if one.device_id == till.device_id)
        assert (waiting.state, waiting.reason) == ("staged", "deferred")
        assert waiting.detail.endswith(": checkout running")
        wait_until(lambda: fleet.rollout(rollout).waves[0].running == 1, "the other device runs version 2")
        assert set(load.answered) == {"1"}

        release(layout, token)

        fleet.wait_for(rollout)
        wait_until(lambda: load.answered["2"] > 20, "answers of version 2")
    assert load.failures == []
