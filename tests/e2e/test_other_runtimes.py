"""Variants for ONNX Runtime and ExecuTorch: built, delivered, proven and served like those for LiteRT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.probe.read import probe
from edge_agent.protocol.profile import RuntimeName

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet

RECIPES = ("onnx-static-int8", "executorch-static-int8")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_onnx_and_pte_variants_are_delivered_to_agents_that_run_them(fleet: Fleet, tiny_model: TinyModel) -> None:
    host = probe(data_dir=fleet.registry.data_dir, runtimes=(RuntimeName.ONNX,), name="bench-onnx")
    onnx = host.model_copy(update={"threads": 1, "npu": None})
    executorch = onnx.model_copy(update={"name": "bench-pte", "runtimes": (RuntimeName.EXECUTORCH,)})
    with fleet.registry.client() as client:
        for profile in (onnx, executorch):
            client.add_profile(profile)
        for job in client.build_variants("tiny", "1", profiles=(onnx.name, executorch.name), recipes=RECIPES):
            client.wait_for_job(job.job_id, timeout_s=150)
        built = {one.profile: one.recipe for one in client.list_variants("tiny", "1") if one.chosen}
    assert (built[onnx.name], built[executorch.name]) == RECIPES
    agents = {"onnx": fleet.join("onnx-1", onnx.name), "executorch": fleet.join("pte-1", executorch.name)}
    fleet.wait_online(*agents.values())
    rollout = fleet.wait_for(fleet.roll_out("1"))
    assert sum(wave.running for wave in rollout.waves) == 2

    expected = tiny_model.expected("1").ravel()
    for runtime, agent in agents.items():
        answer = agent.infer("tiny", tiny_model.rows)
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected, atol=0.15)
        (deployment,) = agent.status()["deployments"]
        assert (deployment["state"], deployment["serving"]) == ("active", True)
        assert deployment["self_test"]["runtime"] == runtime
    fleet.wait_counted({agent.device_id: len(tiny_model.rows) for agent in agents.values()})
