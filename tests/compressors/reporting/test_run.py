"""A report on a variant that was built for real: what the pages say is what its target answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.contract import BuildResult, BuiltVariant, ReportResult
from compressors.reporting.evidence import Evidence
from tests.compressors.test_job import failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.compressors.conftest import Built, JobRun, Request

    Job = Callable[[str, Request], JobRun]
    Ask = Callable[..., Request]


@pytest.fixture
def variants(price_build: Built) -> list[BuiltVariant]:
    """All that was built for one profile."""
    return [one for one in BuildResult.model_validate(price_build.run.result).variants if one.profile == "free"]


@pytest.fixture
def asked(price_build: Built, price_request: Request, variants: list[BuiltVariant], tmp_path: Path) -> Ask:
    """A request for a report on the variant of a recipe and a runtime."""

    def ask(recipe: str, runtime: str, **more: str) -> Request:
        meant = next(v for v in variants if (v.recipe, v.runtime, v.delegate) == (recipe, runtime, "xnnpack"))
        output = price_build.folder / "output"
        return {
            "inputs": price_request["inputs"],
            "variant": meant.model_dump(mode="json"),
            "others": [one.model_dump(mode="json") for one in variants if one is not meant],
            "manifest_path": str(output / str(meant.manifest_sha256)),
            "object_path": str(output / str(meant.object_sha256)),
            "pythons": price_request["pythons"],
            "output_dir": str(tmp_path / "pages"),
            "cache_dir": str(price_build.folder / "cache"),
            **more,
        }

    return ask


def evidence_in(folder: Path) -> Evidence:
    return Evidence.model_validate(json.loads((folder / "report.json").read_text()))


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_report_says_what_the_build_measured_whichever_python_runs_the_file(
    job: Job,
    asked: Ask,
    tmp_path: Path,
    variants: list[BuiltVariant],
    runtime: str,
) -> None:
    run = job("report", asked("static-int8", runtime, host_cpu_model="Xeon"))
    assert run.code == 0, run.stderr
    result = ReportResult.model_validate(run.result)
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == list(result.files)
    found = evidence_in(tmp_path / "pages")
    built = next(one for one in variants if one.variant_id == found.variant_id)
    assert built.metric is not None
    assert built.agreement is not None
    assert found.decision.after.value == pytest.approx(built.metric.value, abs=1e-6)
    assert found.agreement == pytest.approx(built.agreement.value, abs=1e-6)
    assert found.size.wire_bytes == built.wire_bytes
    assert (found.target, found.chosen) == (f"{runtime}/xnnpack", built.chosen)
    plain = next(v for v in variants if (v.recipe, v.runtime, v.delegate) == ("float32", runtime, "xnnpack"))
    assert found.float_size.raw_bytes == plain.raw_bytes
    assert found.size.raw_bytes == built.raw_bytes
    assert {one.layer for one in found.sensitivity} == {"layers.0", "layers.2", "layers.4"}
    assert all(one.trace is not None and one.top_eigenvalue is not None for one in found.sensitivity)
    assert sum(one.reported for one in found.candidates) == 1
    assert len(found.candidates) == sum(one.latency_p50_ms is not None for one in variants)
    assert found.attribution_correlation is not None
    assert found.verdict.label == result.label
    assert (found.limits_verdict, found.limits_reason) == (built.verdict, built.reason.rstrip("."))
    assert ("latency" in result.sentence) == ("on the host (Xeon)" in result.sentence)


def test_candidate_that_was_timed_on_another_cpu_is_not_drawn_beside_the_others(
    job: Job, asked: Ask, tmp_path: Path
) -> None:
    request = asked("float32", "litert")
    elsewhere = next(one for one in request["others"] if one["recipe"] == "static-int8" and one["runtime"] == "litert")
    elsewhere["host_cpu_model"] = "another one"
    run = job("report", request)
    assert run.code == 0, run.stderr
    timed = [one for one in request["others"] if one["latency_p50_ms"] and one is not elsewhere]
    assert len(evidence_in(tmp_path / "pages").candidates) == 1 + len(timed)


def test_float_file_is_labelled_the_float_model(job: Job, asked: Ask, tmp_path: Path) -> None:
    run = job("report", asked("float32", "litert"))
    assert run.code == 0, run.stderr
    assert (run.result["label"], run.result["loses_points"]) == ("the float model", False)
    assert "**the float model**: the file that every other" in (tmp_path / "pages" / "report.md").read_text()


def test_default_that_answers_nonsense_is_labelled_so(job: Job, asked: Ask, tmp_path: Path) -> None:
    run = job("report", asked("dynamic-int8", "tflite"))  # tflite-runtime 2.14 runs it without an error
    assert run.code == 0, run.stderr
    assert (run.result["label"], run.result["loses_points"]) == ("not worth it", True)
    assert evidence_in(tmp_path / "pages").flips.to_wrong > 0
    assert "loses more than one point of r2" in (tmp_path / "pages" / "report.md").read_text()


def test_second_set_is_one_more_shift(
    job: Job,
    asked: Ask,
    tmp_path: Path,
    price_request: Request,
) -> None:
    with np.load(price_request["inputs"]["data_path"]) as archive:
        rows = {name: archive[name][:100] for name in ("features", "target")}
    np.savez(tmp_path / "elsewhere.npz", features=rows["features"] + 0.5, target=rows["target"])
    run = job("report", asked("static-int8", "litert", shifted_path=str(tmp_path / "elsewhere.npz")))
    assert run.code == 0, run.stderr
    shift = evidence_in(tmp_path / "pages").shifts[-1]
    assert shift.name == "the second set, 100 rows"
    assert shift.before < evidence_in(tmp_path / "pages").decision.before.value


def test_second_set_that_does_not_fit_is_one_sentence(job: Job, asked: Ask, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.npz"
    path.write_bytes(b"PK ruined")
    sentence = failure(job("report", asked("static-int8", "litert", shifted_path=str(path))), "bad_data")
    assert sentence.startswith("the second set can't be used: the data are no .npz file, or a damaged one")
    np.savez(path, features=np.zeros((20, 7), np.float32), target=np.zeros((20, 1)))
    sentence = failure(job("report", asked("static-int8", "litert", shifted_path=str(path))), "bad_data")
    assert "features has samples of the shape (7,), the model takes (8,)" in sentence


def test_object_that_is_not_its_manifests_is_refused(job: Job, asked: Ask, tmp_path: Path) -> None:
    request = asked("static-int8", "litert")
    content = bytearray(Path(request["object_path"]).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "object").write_bytes(content)
    sentence = failure(job("report", {**request, "object_path": str(tmp_path / "object")}), "report_failed")
    assert "is not the one of its manifest" in sentence
