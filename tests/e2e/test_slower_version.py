"""A version that answers the same, only slower: what devices measure stops it, with nobody watching."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import FORM
from tests.e2e.load import SteadyLoad
from tests.e2e.wide import widen
from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet

MEASURED = 100  # requests of a device
FIRST_WAVE = 8
LEAST_MEASURED = 5  # devices: fewer prove nothing, even if all measure the same


def _build(fleet: Fleet, tiny: TinyModel, *, version: str) -> None:
    path = fleet.folder / "wide.pt2"
    widen(tiny, path)
    with fleet.registry.client() as client:
        pushed = client.push_model(path, name="tiny", version=version, data=tiny.data, form=FORM)
        client.wait_for_job(pushed.job_id, timeout_s=120)
        for job in client.build_variants("tiny", version, profiles=("bench",), recipes=("float32",)):
            client.wait_for_job(job.job_id, timeout_s=120)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_version_that_is_slower_on_devices_is_stopped_by_itself_and_they_go_back(
    fleet: Fleet, tiny_model: TinyModel
) -> None:
    _build(fleet, tiny_model, version="3")
    agents = [fleet.join(f"till-{number}") for number in range(1 + FIRST_WAVE)]
    fleet.wait_online(*agents)
    fleet.wait_for(fleet.roll_out("1"))
    with ExitStack() as stack:
        loads = [stack.enter_context(SteadyLoad(agent, "tiny", tiny_model.rows, per_second=15.0)) for agent in agents]
        for agent in agents:
            wait_until(
                lambda device=agent.device_id: fleet.counted(device) > 2 * MEASURED,  # type: ignore[misc]
                f"version 1 is measured on {agent.device_id}",
            )
        rollout_id = fleet.roll_out(
            "3", waves=f"{FIRST_WAVE},100%", min_inferences=MEASURED, gate_deadline_s=600.0, max_slowdown=0.5
        )
        fleet.wait_for(rollout_id, "stopped", timeout_s=120.0)
        before = [load.answered["1"] for load in loads]
        wait_until(
            lambda: all(load.answered["1"] > then for load, then in zip(loads, before, strict=True)),
            "all answer with version 1",
        )
        wait_until(lambda: all(agent.serves("tiny", "1") for agent in agents), "all serve version 1")

    gave = [load.answered["3"] for load in loads]
    assert sum(count >= MEASURED for count in gave) >= LEAST_MEASURED
    assert sum(count > 0 for count in gave) <= FIRST_WAVE, "nobody outside of the first wave was given it"
    assert [load.failures for load in loads] == [[] for _ in loads]
    told = fleet.registry.cli("rollout", "explain", rollout_id).stdout
    assert "the p95 is at least" in told
    assert "longer than before on" in told
    assert "devices go back" in told
