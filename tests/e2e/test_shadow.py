"""A version that answers otherwise than the one before is stopped by its shadow, before it has answered anyone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_agent.protocol.shadow import ShadowOutcome
from tests.e2e.load import SteadyLoad
from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet


def test_version_that_disagrees_is_stopped_by_its_shadow_and_one_that_agrees_as_asked_goes_on(
    fleet: Fleet, tiny_model: TinyModel
) -> None:
    first, second = fleet.join("first"), fleet.join("second")
    fleet.wait_online(first, second)
    fleet.wait_for(fleet.roll_out("1"))
    with SteadyLoad(first, "tiny", tiny_model.rows) as one, SteadyLoad(second, "tiny", tiny_model.rows) as other:
        shadow: dict[str, Any] = {"shadow_s": 600, "shadow_samples": 60, "shadow_cpu": 0.5}
        stopped = fleet.wait_for(fleet.roll_out("2", waves="50%,100%", **shadow), "stopped")

        (bad,) = [deployment for deployment in stopped.deployments if deployment.state == "rejected"]
        assert bad.reason == "shadow_disagrees"
        assert bad.shadow is not None
        assert bad.shadow.outcome is ShadowOutcome.DISAGREED
        assert bad.shadow.agreed < bad.shadow.samples == 60
        assert "samples agree with the active version" in stopped.reason
        assert set(one.answered) | set(other.answered) == {"1"}, "nobody was answered by version 2"

        lenient = {**shadow, "shadow_agreement": 0.01, "shadow_tolerance": 1.0, "shadow_max_slowdown": 100.0}
        finished = fleet.wait_for(fleet.roll_out("2", waves="50%,100%", **lenient))
        wait_until(lambda: one.answered["2"] > 20 and other.answered["2"] > 20, "both answer with version 2")

    outcomes = {deployment.shadow.outcome for deployment in finished.deployments if deployment.shadow is not None}
    assert outcomes == {ShadowOutcome.AGREED}
    assert [load.failures for load in (one, other)] == [[], []]
