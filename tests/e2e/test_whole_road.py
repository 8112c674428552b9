"""The main job: push, build, roll out in waves, infer, count; then update under load, and the operator's commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.e2e.load import SteadyLoad
from tests.processes import TFLITE_COMMANDS, wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet


def test_road_from_rollout_to_telemetry_over_both_runtimes_and_transports(fleet: Fleet, tiny_model: TinyModel) -> None:
    litert = fleet.join("litert-1", flags=("--transport", "https"), labels=("site=berlin",))
    tflite = fleet.join("tflite-1", "bench-tflite", commands=TFLITE_COMMANDS)
    tight = fleet.join("tight-1", "tight")
    fleet.wait_online(litert, tflite, tight)

    first = fleet.wait_for(fleet.roll_out("1", waves="50%,100%"))
    assert sum(wave.running for wave in first.waves) == 2
    assert sum(wave.no_variant for wave in first.waves) == 1
    assert [wave.failed + wave.timed_out for wave in first.waves] == [0, 0]

    # the float network and the device agree
    expected = tiny_model.expected("1").ravel()
    for agent in (litert, tflite):
        answer = agent.infer("tiny", tiny_model.rows)
        assert answer["model_version"] == "1"
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected, atol=0.15)
        deployment = agent.status()["deployments"][0]
        assert (deployment["state"], deployment["serving"]) == ("active", True)

    # an update under load loses nothing, and every answer is counted once
    with (
        SteadyLoad(litert, "tiny", tiny_model.rows) as on_litert,
        SteadyLoad(tflite, "tiny", tiny_model.rows) as on_tflite,
    ):
        wait_until(lambda: on_litert.total > 20 and on_tflite.total > 20, "both answer")
        fleet.wait_for(fleet.roll_out("2", waves="50%,100%"))
        wait_until(lambda: on_litert.answered["2"] > 20 and on_tflite.answered["2"] > 20, "both answer with version 2")
    loads = {litert.device_id: on_litert, tflite.device_id: on_tflite}
    assert [load.failures for load in loads.values()] == [[], []]
    fleet.wait_counted({device_id: load.total + len(tiny_model.rows) for device_id, load in loads.items()})
    fleet.wait_counted({device_id: load.answered["2"] for device_id, load in loads.items()}, version="2")
