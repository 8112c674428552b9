"""A build reads the outputs of its model as that model means them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import compressors
from compressors.building.run import run_build
from compressors.contract import BuildRequest, Inputs, Task
from compressors.errors import GpuMissingError
from compressors.metrics import METRICS, OutputScale
from compressors.search_contract import SearchRequest
from compressors.searching.materials import materials_of
from compressors.searching.run import run_search
from compressors.training import Epoch, Fit
from tests.compressors.conftest import board

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.training import Setting

ROWS = 120


@pytest.fixture
def chances(tmp_path: Path) -> Inputs:
    """A network that answers with one probability, and is right wherever that is held against one half."""
    torch.manual_seed(0)
    last = nn.Linear(8, 1)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), last, nn.Sigmoid()).eval()
    table = torch.randn(ROWS, 4)
    with torch.no_grad():
        last.bias.sub_(torch.logit(network(table)).median())  # half of the rows on either side
        target = (network(table)[:, 0] > 0.5).numpy().astype(np.int64)
    shapes = {"input": {0: torch.export.Dim("batch", max=4096)}}
    torch.export.save(torch.export.export(network, (table[:2],), dynamic_shapes=shapes), tmp_path / "net.pt2")
    np.savez(tmp_path / "net.npz", input=table.numpy(), target=target)
    return Inputs(
        model="net",
        version="1",
        model_path=tmp_path / "net.pt2",
        data_path=tmp_path / "net.npz",
        task=Task.CLASSIFICATION,
        metric="accuracy",
    )


@pytest.fixture
def chances_of_few(chances: Inputs, tmp_path: Path) -> Inputs:
    """The same rows, said to be of 12 sources."""
    with np.load(chances.data_path) as arrays:
        np.savez(tmp_path / "few.npz", **arrays, group=np.arange(ROWS) % 12)
    return chances.model_copy(update={"data_path": tmp_path / "few.npz"})


def test_build_holds_a_probability_against_one_half(chances: Inputs, tmp_path: Path) -> None:
    request = BuildRequest.model_validate(
        {
            "inputs": chances,
            "profiles": [board("free", runtimes=("litert",))],
            "recipes": ("float32",),
            "pythons": {"litert": sys.executable},
            "output_dir": tmp_path / "output",
        }
    )
    result = run_build(request)
    assert result.float_metric.value == 1.0
    assert {one.metric.value for one in result.variants if one.metric} == {1.0}
    assert {one.agreement.value for one in result.variants if one.agreement} == {1.0}


def test_search_holds_a_probability_against_one_half(chances: Inputs) -> None:
    materials = materials_of(chances, METRICS["accuracy"])
    assert materials.metric.scale is OutputScale.PROBABILITIES
    assert materials.float_metric.value == 1.0


def test_gpu_that_is_not_there_is_refused_before_anything_is_read(
    chances: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = {
        "inputs": chances.model_copy(update={"model_path": tmp_path / "not-there.pt2"}),
        "pythons": {"litert": sys.executable},
        "device": "cuda",
    }
    profile = board("free", runtimes=("litert",))
    build = BuildRequest.model_validate({**asked, "profiles": [profile], "output_dir": tmp_path / "output"})
    with pytest.raises(GpuMissingError):
        run_build(build)
    search = SearchRequest.model_validate({**asked, "profile": profile, "budget": {"trials": 1}})
    with pytest.raises(GpuMissingError):
        run_search(search)


def test_steps_train_where_the_request_says(chances: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def fine_tune(_module: object, *_rows: object, setting: Setting, **_how: object) -> Fit:
        seen.append(setting.device)
        return Fit(0.0, 1.0, 1, (Epoch(1, 0.0, 1.0),), "epochs")

    monkeypatch.setattr("compressors.building.run.device_for", {"cpu": "cpu", "auto": "cuda"}.__getitem__)
    monkeypatch.setattr("compressors.steps.fine_tune.fit", fine_tune)
    steps = [{"step": "fine-tune"}, {"step": "export-litert"}]
    for device in ("cpu", "auto"):
        request = BuildRequest.model_validate(
            {
                "inputs": chances.model_copy(update={"train_path": chances.data_path}),
                "profiles": [board("free", runtimes=("litert",))],
                "recipes": ({"name": "tuned", "steps": steps}, "float32"),
                "pythons": {"litert": sys.executable},
                "output_dir": tmp_path / "output",
                "device": device,
            }
        )
        run_build(request)
    assert seen == ["cpu", "cuda"]


def test_build_on_few_sources_gives_what_answers_as_the_float_model(chances_of_few: Inputs, tmp_path: Path) -> None:
    request = BuildRequest.model_validate(
        {
            "inputs": chances_of_few,
            "profiles": [board("free", runtimes=("litert",))],
            "recipes": ("float32", "static-int8"),
            "pythons": {"litert": sys.executable},
            "output_dir": tmp_path / "output",
        }
    )
    reasons = {(one.recipe, one.chosen): one.reason for one in run_build(request).variants}
    assert reasons["float32", True] == ""
    assert "how much can't be told from 3 sources" in reasons["static-int8", False]


def test_search_on_few_sources_gives_what_answers_as_the_float_model(chances_of_few: Inputs) -> None:
    request = SearchRequest.model_validate(
        {
            "inputs": chances_of_few,
            "profile": board("free", runtimes=("litert",)),
            "budget": {"trials": 3},
            "pythons": {"litert": sys.executable},
        }
    )
    result = compressors.search(request)
    assert [trial.figures and trial.figures.metric_sources for trial in result.trials] == [None, 3, 3]
    assert result.best == 0
    assert "can't be told from 3 sources" in result.reason


def test_build_says_of_what_may_miss_a_floor_how_low_it_may_be(chances: Inputs, tmp_path: Path) -> None:
    request = BuildRequest.model_validate(
        {
            "inputs": chances,
            "profiles": [board("strict", runtimes=("litert",), metric_floor=0.9)],
            "recipes": ("float32", "static-int8"),
            "pythons": {"litert": sys.executable},
            "output_dir": tmp_path / "output",
        }
    )
    reasons = {(one.recipe, one.chosen): one.reason for one in run_build(request).variants}
    assert reasons["float32", True] == ""
    assert "of accuracy (0.9167 as measured), where the metric_floor is 0.9" in reasons["static-int8", False]


@pytest.mark.parametrize(("scale", "is_shifted"), [(0.02, True), (1.5, False)], ids=["shifted", "alike"])
def test_choice_and_refusal_say_that_the_calibration_data_look_like_others(
    chances: Inputs, tmp_path: Path, *, scale: float, is_shifted: bool
) -> None:
    with np.load(chances.data_path) as given:
        table, target = given["input"], given["target"]
    split = np.array(["calibration", "selection", "test"])[np.arange(ROWS) % 3]
    table = np.where((split == "calibration")[:, None], scale * table, table).astype(np.float32)
    np.savez(tmp_path / "shifted.npz", input=table, target=target, split=split)
    profiles = [board("free", runtimes=("litert",)), board("impossible", runtimes=("litert",), download_bytes=100)]
    request = BuildRequest.model_validate(
        {
            "inputs": chances.model_copy(update={"data_path": tmp_path / "shifted.npz"}),
            "profiles": profiles,
            "recipes": ("float32", "static-int8"),
            "pythons": {"litert": sys.executable},
            "output_dir": tmp_path / "output",
        }
    )
    chosen, refused = run_build(request).choices
    assert refused.refusal is not None
    for said in (chosen.reason, refused.refusal.sentence):
        assert (". static-int8 has a warning: the calibration data look like another" in said) is is_shifted
