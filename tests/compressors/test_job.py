"""Jobs as a worker runs them: a process, a request, a result."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from compressors.contract import BuildResult, InspectResult
from compressors.inputs import inspection
from compressors.job import main
from edge_agent.protocol.manifest import FileRole, VariantManifest
from edge_agent.transfer.unpack import unpack
from tests.compressors.conftest import HOST_CPU, board
from tests.compressors.networks import export

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.compressors.conftest import Built, JobRun, Request

    Job = Callable[[str, Request], JobRun]

CODE_OF_FAILURE = 2


def inspect_request(model: Path, data: Path, *, task: str = "regression", metric: str = "r2") -> Request:
    names = {"model": "net", "version": "1", "task": task, "metric": metric}
    return {"inputs": {**names, "model_path": str(model), "data_path": str(data)}}


def failure(run: JobRun, code: str) -> str:
    """The sentence of a job that failed as it should."""
    assert run.code == CODE_OF_FAILURE, run.stderr
    assert run.result["error"]["code"] == code
    sentence: str = run.result["error"]["message"]
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("model", ["price.pt2", "price-batch-1.pt2"])
def test_inspect_tells_signature_size_and_splits(uploads: Path, job: Job, model: str) -> None:
    run = job("inspect", inspect_request(uploads / model, uploads / "price.npz"))
    assert run.code == 0, run.stderr
    result = InspectResult.model_validate(run.result)
    (taken,), (given,) = result.signature.inputs, result.signature.outputs
    assert (taken.name, taken.shape, given.name, given.shape) == ("features", (-1, 8), "output_0", (-1, 1))
    assert result.parameters == 8 * 32 + 32 + 32 * 32 + 32 + 32 + 1
    assert result.splits.calibration + result.splits.selection + result.splits.test == 1200


def test_inspect_reads_labels_and_groups(uploads: Path, job: Job) -> None:
    request = inspect_request(uploads / "shapes.pt2", uploads / "shapes.npz", task="classification", metric="top1")
    result = InspectResult.model_validate(job("inspect", request).result)
    assert result.labels == ("lying", "standing", "slanted")
    assert result.splits.groups == 100


def test_inspect_counts_training_rows_and_those_that_it_leaves_out(uploads: Path, job: Job) -> None:
    request = inspect_request(uploads / "price.pt2", uploads / "price.npz")
    request["inputs"]["train_path"] = str(uploads / "price-train.npz")
    result = InspectResult.model_validate(job("inspect", request).result)
    assert result.training is not None
    hidden = result.splits.selection + result.splits.test
    assert (result.training.rows, result.training.labelled, result.training.left_out) == (
        2400 - hidden,
        2400 - hidden,
        hidden,
    )


def test_build_fine_tunes_with_the_training_rows(uploads: Path, tmp_path: Path, job: Job) -> None:
    request = inspect_request(uploads / "price.pt2", uploads / "price.npz")
    request["inputs"]["train_path"] = str(uploads / "price-train.npz")
    cut = {"step": "low-rank", "parameters": {"energy": 0.5, "multiple": 1, "aim": "weights"}}
    tuned = {"step": "fine-tune", "parameters": {"epochs": 10, "batch_size": 32, "learning_rate": 0.01}}
    export = {"step": "export-litert"}
    request |= {
        "recipes": [{"name": "cut", "steps": [cut, export]}, {"name": "mended", "steps": [cut, tuned, export]}],
        "profiles": [board("free", runtimes=("litert",))],
        "pythons": {"litert": sys.executable},
        "output_dir": str(tmp_path / "output"),
        "cache_dir": str(tmp_path / "cache"),
    }
    run = job("build", request)
    assert run.code == 0, run.stderr
    result = BuildResult.model_validate(run.result)
    metrics = {one.recipe: one.metric.value for one in result.variants if one.metric is not None}
    assert metrics["mended"] > metrics["cut"] + 0.05
    steps = next(one.steps for one in result.variants if one.recipe == "mended")
    assert [step.step for step in steps] == ["low-rank", "fine-tune", "export-litert"]
    assert "on the selection split" in steps[1].summary


def test_inspect_of_a_weight_that_is_no_number_names_it(uploads: Path, tmp_path: Path, job: Job) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 1)).eval()
    with torch.no_grad():
        network.get_parameter("0.bias").fill_(float("inf"))
    export(network, tmp_path / "infinite.pt2", "input", (8,))
    run = job("inspect", inspect_request(tmp_path / "infinite.pt2", uploads / "price.npz"))
    assert "0.bias holds 1 values that are NaN or infinite" in failure(run, "bad_weights")


def test_inspect_of_a_constant_batch_says_the_line_that_mends_it(uploads: Path, job: Job) -> None:
    run = job("inspect", inspect_request(uploads / "price-batch-4.pt2", uploads / "price.npz"))
    said = failure(run, "bad_signature")
    assert "the constant batch 4" in said
    assert "dynamic_shapes={'features': {0: torch.export.Dim('batch')}}" in said


def test_inspect_of_a_pickle_is_refused_and_nothing_runs(uploads: Path, tmp_path: Path, job: Job) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.")
    assert "is a pickle" in failure(job("inspect", inspect_request(path, uploads / "price.npz")), "bad_archive")
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"metric": "top1"}, "bad_metric", "does not fit regression"),
        ({"metric": "f1"}, "bad_metric", "there is no metric 'f1'"),
        ({"model": "../etc"}, "bad_request", "the request does not fit"),
        ({"data_path": "/nowhere/data.npz"}, "bad_data", "np.savez"),
    ],
)
def test_inspect_of_a_wrong_request_fails_with_one_sentence(
    uploads: Path, job: Job, changes: dict[str, Any], code: str, says: str
) -> None:
    request = inspect_request(uploads / "price.pt2", uploads / "price.npz")
    request["inputs"] |= changes
    assert says in failure(job("inspect", request), code)


def test_inspect_with_data_of_another_model_is_refused(uploads: Path, job: Job) -> None:
    run = job("inspect", inspect_request(uploads / "price.pt2", uploads / "shapes.npz"))
    assert "no array 'features'" in failure(run, "bad_data")


@pytest.mark.parametrize("verb", ["inspect", "build"])
def test_model_whose_output_is_no_number_is_refused_with_output_and_row(
    uploads: Path, tmp_path: Path, job: Job, verb: str
) -> None:
    request = inspect_request(uploads / "logarithm.pt2", uploads / "price.npz")
    if verb == "build":
        folders = {"output_dir": str(tmp_path / "output"), "cache_dir": str(tmp_path / "cache")}
        request |= {"profiles": [board("any")], "pythons": {}, **folders}
    said = failure(job(verb, request), "model_run_failed")
    found = re.match(r"output_1 of the model is NaN or infinite for row (\d+) of the data: ", said)
    assert found, said
    with np.load(uploads / "price.npz") as archive:
        assert archive["features"][int(found[1]), 0] < 0


def test_operator_that_fails_on_the_data_is_one_sentence(uploads: Path, job: Job) -> None:
    said = failure(
        job("inspect", inspect_request(uploads / "out-of-bounds.pt2", uploads / "price.npz")), "model_run_failed"
    )
    assert said.startswith("the model fails on the data (index out of range")


def test_targets_so_large_that_the_metric_overflows_are_refused(uploads: Path, tmp_path: Path, job: Job) -> None:
    with np.load(uploads / "price.npz") as archive:
        rows = {"features": archive["features"], "target": archive["target"].astype(np.float64) * 1e200}
    np.savez(tmp_path / "huge.npz", **rows)
    request = inspect_request(uploads / "price.pt2", tmp_path / "huge.npz")
    folders = {"output_dir": str(tmp_path / "output"), "cache_dir": str(tmp_path / "cache")}
    run = job("build", {**request, "profiles": [board("any")], "pythons": {}, **folders})
    assert "the metric r2 overflows" in failure(run, "bad_metric")


def test_inspect_of_data_that_the_metric_says_nothing_of_is_refused(uploads: Path, tmp_path: Path, job: Job) -> None:
    with np.load(uploads / "films.npz") as archive:
        rows = dict(archive)
    np.savez(tmp_path / "liked.npz", **{**rows, "target": np.ones_like(rows["target"])})
    request = inspect_request(uploads / "films.pt2", tmp_path / "liked.npz", task="ranking", metric="auc")
    said = failure(job("inspect", request), "bad_data")
    assert said.startswith("target is 1 in all 120 rows of the selection split")


def test_job_on_a_full_disk_says_so(uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, told = tmp_path / "request.json", tmp_path / "result.json"
    asked.write_text(json.dumps(inspect_request(uploads / "price.pt2", uploads / "price.npz")))

    def full(_request: object) -> None:
        with Path("/dev/full").open("wb", buffering=0) as disk:
            disk.write(b"a tensor")

    monkeypatch.setattr(inspection, "run_inspect", full)
    monkeypatch.setattr(logging.root.manager, "disable", 0)  # which a job sets for its whole process
    assert main(["inspect", str(asked), str(told)]) == CODE_OF_FAILURE
    error = json.loads(told.read_text())["error"]
    assert error["code"] == "worker_disk"
    assert error["message"].endswith("No space left on device; make room there, and try again")


def test_build_chooses_for_each_profile(price_build: Built) -> None:
    result = BuildResult.model_validate(price_build.run.result)
    assert result.float_metric.value > 0.9
    chosen = {choice.profile: choice.variant_id for choice in result.choices}
    assert chosen["impossible"] is None
    for name in ("free", "another-cpu", "this-cpu", "thrifty"):
        picked = [one for one in result.variants if one.profile == name and one.chosen]
        assert [one.variant_id for one in picked] == [chosen[name]]
        ranks = {one.rank for one in result.variants if one.profile == name and one.rank is not None}
        assert ranks == set(range(len(ranks)))
        assert [one.rank for one in picked] == [0]
    assert all((one.rank is None) == (one.verdict in {"misses", "unmeasured"}) for one in result.variants)


def test_build_names_the_limit_that_binds_where_nothing_fits(price_build: Built) -> None:
    refusal = price_build.choice("impossible")["refusal"]
    assert (refusal["limit"], refusal["allowed"]) == ("download_bytes", 100)
    assert refusal["nearest"] > 1000
    assert "no variant fits impossible: download_bytes may be 100" in refusal["sentence"]


def test_build_where_float_is_too_large_ends_with_int8(price_build: Built) -> None:
    found = price_build.variants("thrifty")
    assert found["float32", "tflite", "xnnpack"]["verdict"] == "misses"
    (chosen,) = [one for one in found.values() if one["chosen"]]
    assert chosen["recipe"] == "static-int8"
    assert chosen["wire_bytes"] <= 5000


def test_build_calls_a_latency_of_another_cpu_unproven(price_build: Built) -> None:
    verdicts = {one["verdict"] for one in price_build.variants("another-cpu").values() if one["runtime"] == "litert"}
    assert verdicts == {"unproven"}
    assert {one["verdict"] for one in price_build.variants("this-cpu").values() if one["runtime"] == "litert"} == {
        "fits"
    }


def test_build_refuses_what_a_runtime_computes_wrongly(price_build: Built) -> None:
    # tflite-runtime 2.14 runs int8 weights with one scale per channel without an error, and answers nonsense
    broken = price_build.variants("free")["dynamic-int8", "tflite", "none"]
    assert broken["metric"]["value"] < 0.5
    assert broken["verdict"] == "misses"
    assert broken["reason"].startswith("metric_max_drop is")


def test_build_measures_everything_about_a_variant(price_build: Built) -> None:
    found = price_build.variants("free")
    assert len(found) == 3 * 2 * 2
    small, plain = found["static-int8", "litert", "xnnpack"], found["float32", "litert", "xnnpack"]
    assert small["raw_bytes"] < plain["raw_bytes"]
    assert small["wire_bytes"] < plain["wire_bytes"]
    assert small["macs"] == plain["macs"] == 8 * 32 + 32 * 32 + 32
    assert (small["quantized_operators"], plain["quantized_operators"]) == (3, 0)
    assert plain["delegate_partitions"] == 1
    assert found["float32", "litert", "none"]["delegate_partitions"] == 0
    for one in (small, plain):
        assert 0 < one["latency_p50_ms"]["value"] <= one["latency_p95_ms"]["value"]
        assert one["load_ms"]["value"] > 0
        assert one["host_cpu_model"] == HOST_CPU
        assert one["peak_rss_bytes"]["value"] > 0
        assert one["metric"]["low"] <= one["metric"]["value"] <= one["metric"]["high"]
        assert one["agreement"]["value"] > 0.99
        assert {one[name]["origin"] for name in ("latency_p95_ms", "metric", "peak_rss_bytes")} == {"host"}
    drop, metric = small["metric_drop"], small["metric"]
    assert abs(drop["value"]) < 0.005
    assert drop["low"] <= drop["value"] <= drop["high"]
    assert drop["high"] - drop["low"] < 0.5 * (metric["high"] - metric["low"]), "both answered the same rows"


def test_build_records_what_each_step_did_to_each_layer(price_build: Built) -> None:
    steps = price_build.variants("free")["static-int8", "litert", "none"]["steps"]
    assert [step["step"] for step in steps] == ["export-litert", "static-int8"]
    assert len(steps[1]["layers"]) == 3
    assert set(steps[1]["layers"].values()) == {"FULLY_CONNECTED int8 x int8"}


def test_manifest_describes_the_object_to_the_last_byte(price_build: Built) -> None:
    for one in price_build.variants("free").values():
        raw = price_build.written(one["manifest_sha256"])
        assert hashlib.sha256(raw).hexdigest() == one["manifest_sha256"]
        manifest = VariantManifest.model_validate_json(raw)
        content = price_build.written(one["object_sha256"])
        assert manifest.object.sha256 == hashlib.sha256(content).hexdigest()
        assert manifest.object.size_bytes == len(content) == one["wire_bytes"]
        installed = installed_of(price_build, one)
        for file in manifest.files:
            assert hashlib.sha256((installed / file.role.value).read_bytes()).hexdigest() == file.sha256
        assert (manifest.variant_id, manifest.recipe) == (one["variant_id"], one["recipe"])


def test_golden_samples_are_real_and_answered_within_tolerance_by_the_same_runtime(price_build: Built) -> None:
    found = price_build.variants("free")
    answers = {}
    for delegate in ("none", "xnnpack"):
        manifest, arrays = golden_of(price_build, found["static-int8", "litert", delegate])
        assert manifest.golden is not None
        assert arrays["in_0"].shape == (manifest.golden.samples, 8)
        assert arrays["out_0"].shape == (manifest.golden.samples, 1)
        answers[delegate] = (arrays, manifest.golden.atol)
    (first, atol), (second, _) = answers["none"], answers["xnnpack"]
    assert np.array_equal(first["in_0"], second["in_0"])
    assert np.abs(first["out_0"] - second["out_0"]).max() <= atol
    assert atol < 0.2 * np.abs(first["out_0"]).max()  # a wrong answer is further off


def golden_of(build: Built, variant: dict[str, Any]) -> tuple[VariantManifest, dict[str, Any]]:
    manifest = VariantManifest.model_validate_json(build.written(variant["manifest_sha256"]))
    with np.load(installed_of(build, variant) / FileRole.GOLDEN.value, allow_pickle=False) as archive:
        return manifest, {name: archive[name] for name in archive.files}


def installed_of(build: Built, variant: dict[str, Any]) -> Path:
    """The folder of files that a device makes of a variant; its own unpacking checks every hash."""
    objects = build.folder / "output"
    target: Path = build.folder / "installed" / variant["variant_id"]
    unpack(objects / variant["object_sha256"], objects / variant["manifest_sha256"], target)
    return target


def test_progress_is_one_object_a_line_and_reaches_its_end(price_build: Built) -> None:
    progress = price_build.run.progress
    assert [line["done"] for line in progress] == sorted(line["done"] for line in progress)
    assert progress[-1]["done"] == progress[-1]["of"] - 1
    assert {line["of"] for line in progress} == {progress[0]["of"]}


def test_build_again_gives_the_same_variants_bytes_and_choices(
    price_build: Built, price_request: Request, tmp_path: Path, job: Job
) -> None:
    shutil.copytree(price_build.folder / "cache", tmp_path / "cache")
    folders = {"output_dir": str(tmp_path / "output"), "cache_dir": str(tmp_path / "cache")}
    again = job("build", {**price_request, **folders})
    assert again.code == 0, again.stderr
    assert again.result == price_build.run.result
    before = {path.name for path in (price_build.folder / "output").iterdir()}
    assert {path.name for path in (tmp_path / "output").iterdir()} == before


@pytest.mark.slow  # whole builds
def test_build_that_shall_measure_again_believes_no_kept_figure_and_gives_the_same_manifests(
    price_build: Built, price_request: Request, tmp_path: Path, job: Job
) -> None:
    shutil.copytree(price_build.folder / "cache", tmp_path / "cache")
    kept = [path for path in (tmp_path / "cache").rglob("*.json") if "p95_ms" in path.read_text()]
    for path in kept:  # as if they were measured while the machine stood nearly still
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "p50_ms": 8e6, "p95_ms": 9e6}))
    folders = {"output_dir": str(tmp_path / "output"), "cache_dir": str(tmp_path / "cache")}
    run = job("build", {**price_request, **folders, "measure_again": True})
    assert run.code == 0, run.stderr
    figures = [one["latency_p95_ms"]["value"] for one in run.result["variants"] if one["latency_p95_ms"] is not None]
    assert figures
    assert max(figures) < 8e6
    assert not [path for path in kept if json.loads(path.read_bytes())["p95_ms"] == 9e6], "kept for later builds"
    # a figure is no part of a variant: devices that have one of these need not fetch another manifest
    before = {one["manifest_sha256"] for one in price_build.run.result["variants"]}
    assert {one["manifest_sha256"] for one in run.result["variants"]} == before


def test_figure_of_a_device_settles_what_was_unproven(
    price_build: Built, price_request: Request, tmp_path: Path, job: Job
) -> None:
    shutil.copytree(price_build.folder / "cache", tmp_path / "cache")
    found = price_build.variants("another-cpu")
    quick, slow = (found["float32", "litert", delegate]["variant_id"] for delegate in ("none", "xnnpack"))
    figures = [
        {"profile": "another-cpu", "variant_id": quick, "p95_ms": 2.0},
        {"profile": "another-cpu", "variant_id": slow, "p95_ms": 9.0},
    ]
    folders = {"output_dir": str(tmp_path / "output"), "cache_dir": str(tmp_path / "cache")}
    run = job("build", {**price_request, **folders, "device_figures": figures})
    verdicts = {one["variant_id"]: one for one in run.result["variants"]}
    assert (verdicts[quick]["verdict"], verdicts[quick]["chosen"]) == ("fits", True)
    assert verdicts[quick]["latency_p95_ms"]["origin"] == "device"
    assert verdicts[slow]["verdict"] == "misses"
    assert verdicts[slow]["manifest_sha256"] is not None  # a device runs it, and may have to fetch it again


def test_variants_of_another_model_on_devices_change_which_one_a_far_profile_gets(
    price_build: Built, price_request: Request, tmp_path: Path, job: Job
) -> None:
    """Devices on which the usual winner's kind is slow, and another kind is not."""
    shutil.copytree(price_build.folder / "cache", tmp_path / "cache")
    before = price_build.choice("another-cpu")["variant_id"]
    found = price_build.variants("another-cpu").values()
    winner = next(one for one in found if one["variant_id"] == before)
    steps = {one["recipe"]: one["steps"][-1]["step"] for one in found if one["steps"]}

    def figures(recipe: str, runtime: str, delegate: str, ratio: float) -> list[dict[str, object]]:
        host = {
            "cpu_model": HOST_CPU,
            "runtime": runtime,
            "delegate": delegate,
            "last_step": steps[recipe],
            "p50_ms": 1.0,
        }
        named = f"{recipe}-{runtime}-{delegate}"
        return [
            {"profile": "another-cpu", "variant_id": f"other-{named}-{i}", "p95_ms": ratio, "host": host}
            for i in range(7)
        ]

    kinds = {(one["recipe"], one["runtime"], one["delegate"]) for one in found if one["latency_p50_ms"]}
    own = (winner["recipe"], winner["runtime"], winner["delegate"])
    told = [row for kind in sorted(kinds) for row in figures(*kind, 1500.0 if kind == own else 1.0)]
    folders = {"output_dir": str(tmp_path / "output"), "cache_dir": str(tmp_path / "cache")}
    run = job("build", {**price_request, **folders, "device_figures": told})
    after = {one["variant_id"]: one for one in run.result["variants"] if one["profile"] == "another-cpu"}
    chosen = next(one for one in after.values() if one["chosen"])
    assert chosen["variant_id"] != before
    assert chosen["verdict"] == "fits"
    assert chosen["latency_p95_ms"]["origin"] == "predicted"
    assert chosen["latency_p95_ms"]["device_variants"] == 7
    assert "predicted from 7 variants that devices of this profile measured" in chosen["reason"]
    assert after[before]["latency_p95_ms"]["value"] > chosen["latency_p95_ms"]["value"]


def test_runtime_that_is_not_installed_is_unmeasured_and_never_chosen(shapes_build: Built) -> None:
    found = shapes_build.variants("no-runtime")
    assert {one["verdict"] for one in found.values()} == {"unmeasured"}
    assert "not installed" in next(iter(found.values()))["reason"]
    refusal = shapes_build.choice("no-runtime")["refusal"]
    assert refusal["limit"] == "runtimes"
    assert shapes_build.choice("camera")["variant_id"] is not None


def test_convnet_survives_every_recipe(shapes_build: Built) -> None:
    found = shapes_build.variants("camera")
    assert shapes_build.run.result["float_metric"]["value"] > 0.8
    assert {recipe for recipe, _, _ in found} == {"float32", "dynamic-int8", "static-int8", "static-int8-floatio"}
    for one in found.values():
        assert one["agreement"]["value"] > 0.9, one["variant_id"]
        assert one["macs"] == 12 * 12 * (8 * 9 + 8 * 9 + 16 * 8) + 144 * 3


def test_recommender_with_whole_numbers_is_built_and_ranks_as_before(films_build: Built) -> None:
    found = films_build.variants("shop")
    assert films_build.run.result["float_metric"]["value"] == 1.0
    for (recipe, runtime, _), one in found.items():
        assert one["verdict"] != "unmeasured", one["reason"]
        if recipe != "dynamic-int8" or runtime != "tflite":
            assert one["metric"]["value"] > 0.6, one["variant_id"]
    manifest, arrays = golden_of(films_build, found["float32", "litert", "none"])
    assert [spec.datatype for spec in manifest.signature.inputs] == ["INT64", "INT64"]
    assert arrays["in_0"].dtype == np.int64


def test_manifest_of_an_int8_file_tells_the_runner_how_to_convert(shapes_build: Built) -> None:
    manifest, _ = golden_of(shapes_build, shapes_build.variants("camera")["static-int8", "litert", "none"])
    assert manifest.signature.inputs[0].datatype == "FP32"
    assert (manifest.inputs[0].datatype, manifest.outputs[0].datatype) == ("INT8", "INT8")
    assert manifest.inputs[0].scale is not None
    assert manifest.labels == ("lying", "standing", "slanted")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, compressors, compressors.contract; print(sorted({'torch', 'jax', 'numpy'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_job_where_a_library_is_missing_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from compressors.job import main; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "request.json").write_text("{}")
    paths = (tmp_path / "request.json", tmp_path / "result.json")
    ended = subprocess.run(
        [sys.executable, "-c", code, "inspect", *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == CODE_OF_FAILURE, ended.stderr
    assert json.loads(paths[1].read_text())["error"] == {
        "code": "extra_missing",
        "message": "jobs need torch, which is not installed where they run: pip install 'shoal[compress]' there",
    }
