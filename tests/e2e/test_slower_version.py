"""A version that answers the same, only slower: what devices measure stops it, with nobody watching."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import FORM
from tests.e2e.load import SteadyLoad
from tests.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet

WIDTH = 2048  # the p95 of version 1 is microseconds and scatters: the difference has to stand out
MEASURED = 100  # requests of a device
FIRST_WAVE = 8
LEAST_MEASURED = 5  # devices: fewer prove nothing, even if all measure the same


def _widen(tiny: TinyModel, path: Path) -> None:
    """Version 1 with two wide layers that hand on what it computes: four million weights more, the same answers."""
    import torch  # noqa: PLC0415  only whoever makes the model pays for the import

    weights = torch.export.load(tiny.archive("1")).state_dict
    hidden = weights["layers.0.bias"].numel()
    torch.manual_seed(0)
    wide = torch.nn.Sequential(
        torch.nn.Linear(8, hidden), torch.nn.ReLU(),
        torch.nn.Linear(hidden, WIDTH), torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, 1),
    ).eval()  # fmt: skip
    state = wide.state_dict()  # shares its memory with the network
    for layer in (2, 4):
        state[f"{layer}.weight"][:hidden] = 0.0
        state[f"{layer}.weight"][:hidden, :hidden] = torch.eye(hidden)
        state[f"{layer}.bias"][:hidden] = 0.0
    state["6.weight"][:] = 0.0
    for name in ("weight", "bias"):
        state[f"0.{name}"][:] = weights[f"layers.0.{name}"]
        state[f"6.{name}"][..., :hidden] = weights[f"layers.2.{name}"]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = wide

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.layers(features)
            return answer

    shapes = {"features": {0: torch.export.Dim("batch", max=4096)}}
    torch.export.save(torch.export.export(Network().eval(), (torch.zeros(2, 8),), dynamic_shapes=shapes), path)


def _build(fleet: Fleet, tiny: TinyModel, *, version: str) -> None:
    path = fleet.folder / "wide.pt2"
    _widen(tiny, path)
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
