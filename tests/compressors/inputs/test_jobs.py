"""Every format on the whole road of a job: inspected, built, measured, judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from compressors.contract import BuildResult, InspectResult
from edge_agent.protocol.manifest import VariantManifest
from tests.compressors.conftest import JobRun, board, run_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.compressors.conftest import Request, Shared

    Job = Callable[[str, Request], JobRun]

FAILED = 2


def request(model: Path, data: Path) -> Request:
    """What both verbs are asked."""
    names = {"model": "net", "version": "1", "task": "classification", "metric": "top1"}
    return {"inputs": {**names, "model_path": str(model), "data_path": str(data)}}


@pytest.mark.parametrize(
    ("name", "data", "shape"),
    [
        ("shapes.onnx", "shapes.npz", (-1, 1, 12, 12)),
        pytest.param("shapes.h5", "keras-shapes.npz", (-1, 12, 12, 1), marks=pytest.mark.slow),
        pytest.param("shapes.zip", "keras-shapes.npz", (-1, 12, 12, 1), marks=pytest.mark.slow),
    ],
)
def test_inspect_tells_the_signature_of_any_format(
    foreign: Path, tmp_path: Path, job: Job, name: str, data: str, shape: tuple[int, ...]
) -> None:
    model = tmp_path / "model"  # under the name by which the registry hands it over
    model.write_bytes((foreign / name).read_bytes())
    run = job("inspect", request(model, foreign / data))
    assert run.code == 0, run.stderr
    result = InspectResult.model_validate(run.result)
    assert (result.signature.inputs[0].name, result.signature.inputs[0].shape) == ("picture", shape)
    assert result.signature.outputs[0].shape == (-1, 3)
    assert result.parameters == 739


def test_inspect_of_data_in_the_layout_of_torch_is_refused(foreign: Path, job: Job) -> None:
    run = job("inspect", request(foreign / "shapes.h5", foreign / "shapes.npz"))
    assert (run.code, run.result["error"]["code"]) == (FAILED, "bad_data")


def test_hostile_model_ends_the_job_with_one_sentence(foreign: Path, job: Job) -> None:
    run = job("inspect", request(foreign / "reader.zip", foreign / "keras-shapes.npz"))
    assert (run.code, run.result["error"]["code"]) == (FAILED, "conversion_failed")
    assert "uses ReadFile" in run.result["error"]["message"]


def built(shared: Shared, name: str, asked: Request, recipes: list[Any], python: str) -> tuple[Path, JobRun]:
    """A build, done once for all workers."""
    profile = board("camera", runtimes=("litert",))
    more = {"profiles": [profile], "recipes": recipes, "pythons": {"litert": python}}

    def make(folder: Path) -> None:
        ended = run_job("build", {**asked, **more, "output_dir": str(folder / "output")}, folder)
        (folder / "run.json").write_text(json.dumps([ended.code, ended.result, ended.stderr]))

    folder = shared.once(name, make)
    code, result, stderr = json.loads((folder / "run.json").read_text())
    return folder, JobRun(code, result, [], stderr)


@pytest.mark.slow
def test_build_of_an_h5_gives_an_integer_file_with_uint8_ends(
    shared: Shared, foreign: Path, pythons: dict[str, str]
) -> None:
    asked = request(foreign / "shapes.h5", foreign / "keras-shapes.npz")
    folder, run = built(shared, "h5-build", asked, ["float32", "static-int8-uint8io"], pythons["litert"])
    assert run.code == 0, run.stderr
    result = BuildResult.model_validate(run.result)
    variant = next(
        one for one in result.variants if one.recipe == "static-int8-uint8io" and one.delegate.value == "xnnpack"
    )
    assert variant.metric_drop is not None
    assert abs(variant.metric_drop.value) < 0.03
    assert variant.operators is not None
    assert variant.quantized_operators == variant.operators - 2  # all but the conversions at the two ends
    manifest = VariantManifest.model_validate_json((folder / "output" / str(variant.manifest_sha256)).read_bytes())
    assert [one.datatype.value for one in (*manifest.inputs, *manifest.outputs)] == ["UINT8", "UINT8"]
    assert manifest.signature.inputs[0].datatype.value == "FP32"  # the app's own


def test_build_of_a_file_gives_variants_and_refuses_what_needs_layers(
    shared: Shared, foreign: Path, pythons: dict[str, str]
) -> None:
    layers = {"name": "clustered", "steps": [{"step": "cluster"}, {"step": "export-litert"}]}
    asked = request(foreign / "shapes.tflite", foreign / "keras-shapes.npz")
    _, run = built(shared, "tflite-build", asked, ["float32", "static-int8", layers], pythons["litert"])
    assert run.code == 0, run.stderr
    result = BuildResult.model_validate(run.result)
    by_recipe = {one.recipe: one for one in result.variants}
    assert by_recipe["float32"].metric_drop is not None
    assert abs(by_recipe["float32"].metric_drop.value) < 1e-6
    assert by_recipe["float32"].raw_bytes == (foreign / "shapes.tflite").stat().st_size
    assert by_recipe["static-int8"].quantized_operators
    assert by_recipe["clustered"].verdict.value == "unmeasured"
    assert "cluster works on the network, and this model was pushed as a litert file" in by_recipe["clustered"].reason
    assert result.choices[0].variant_id is not None


@pytest.mark.slow
def test_build_of_an_onnx_clusters_its_layers(shared: Shared, foreign: Path, pythons: dict[str, str]) -> None:
    layers = {"name": "clustered", "steps": [{"step": "cluster"}, {"step": "export-litert"}]}
    asked = request(foreign / "shapes.onnx", foreign / "shapes.npz")
    _, run = built(shared, "onnx-build", asked, [layers], pythons["litert"])
    assert run.code == 0, run.stderr
    variant = BuildResult.model_validate(run.result).variants[0]
    assert variant.metric_drop is not None
    assert abs(variant.metric_drop.value) < 0.03
    assert variant.steps[0].layers.keys() & {"layers.4", "layers.8"}
