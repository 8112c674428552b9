"""What a search offers follows the rules of a build."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.bootstrap import Estimate
from compressors.contract import Figure, Recipe, StepSpec
from compressors.metrics import METRICS
from compressors.search_contract import Latency, SearchRequest, SearchResult, Trial, TrialFigures
from compressors.searching.judging import Bar
from compressors.searching.loop import front_of
from compressors.searching.run import worth_building
from edge_agent.protocol.profile import Delegate, DeviceProfile, RuntimeName
from tests.compressors.conftest import HOST_CPU, Upload, board, inputs_of

if TYPE_CHECKING:
    from pathlib import Path


def bar(**limits: float) -> Bar:
    profile = DeviceProfile.model_validate(board("camera", cpu=HOST_CPU, runtimes=("litert",), **limits))
    return Bar(profile, METRICS["r2"], Estimate(0.79, np.full(300, 0.79), np.zeros(300), sources=300))


def figures(
    drop: float, *, p50_ms: float, interval: tuple[float, float] | None = None, sources: int | None = None
) -> TrialFigures:
    return TrialFigures(
        latency=Latency(runtime=RuntimeName.LITERT, delegate=Delegate.XNNPACK, p50_ms=p50_ms, p95_ms=p50_ms),
        raw_bytes=1000,
        download_bytes=1000,
        storage_bytes=1000,
        metric=Figure(value=0.79 - drop, low=0.6, high=0.9),
        metric_drop=drop,
        metric_drop_interval=interval,
        metric_sources=sources,
    )


def trials(against: Bar, *losses: tuple[float, float]) -> list[Trial]:
    """A trial for each loss and latency."""
    made = []
    for number, (drop, p50_ms) in enumerate(losses):
        known = figures(drop, p50_ms=p50_ms)
        recipe = Recipe(name=f"recipe{number}", steps=(StepSpec(step="export-litert"),))
        standing = against.standing(recipe.name, known)
        made.append(Trial(number=number, parameters={}, recipe=recipe, figures=known, **standing._asdict()))
    return made


FLOAT, WEIGHT_ONLY, STATIC, HALVED = (0.0, 9.0), (0.0146, 4.0), (0.004, 6.0), (0.009, 3.0)


@pytest.mark.parametrize(
    ("limits", "front", "best"),
    [
        pytest.param({}, [0, 2], 2, id="silent"),
        pytest.param({"metric_max_drop": 0.01}, [0, 2, 3], 3, id="a-limit"),
    ],
)
def test_what_is_offered_and_what_is_chosen_lose_alike(limits: dict[str, float], front: list[int], best: int) -> None:
    against = bar(**limits)
    found = trials(against, FLOAT, WEIGHT_ONLY, STATIC, HALVED)
    assert [trial.number for trial in front_of(found)] == front
    assert against.choose(found)[0] == best


@pytest.mark.parametrize(
    ("limits", "built"),
    [
        pytest.param({}, ["recipe2", "recipe0"], id="silent"),
        pytest.param({"metric_max_drop": 0.01}, ["recipe3", "recipe2", "recipe0"], id="a-limit"),
    ],
)
def test_what_is_built_of_a_search_is_what_may_be_offered(
    limits: dict[str, float], built: list[str], tmp_path: Path
) -> None:
    against = bar(**limits)
    found = trials(against, FLOAT, WEIGHT_ONLY, STATIC, HALVED)
    best, _, _ = against.choose(found)
    request = SearchRequest.model_validate(
        {
            "inputs": inputs_of(Upload(tmp_path / "net.pt2", tmp_path / "net.npz"), task="regression", metric="r2"),
            "profile": against.profile,
            "budget": {"trials": 4},
            "pythons": {"litert": sys.executable},
        }
    )
    result = SearchResult(
        metric="r2",
        float_metric=Figure(value=0.79),
        seed=0,
        trials=tuple(found),
        front=tuple(trial.number for trial in front_of(found)),
        best=best,
        latencies={},
    )
    names = [recipe.name for recipe in worth_building(request, result)]
    assert [name for name in names if name.startswith("recipe")] == built
    assert {"float32", "static-int8"} <= set(names), "no search offers less than a build of the usual recipes"


def test_loss_is_judged_by_the_interval_of_the_difference() -> None:
    """The metric's own interval, 0.6 to 0.9, would let anything pass."""
    assert bar().standing("surely", figures(0.03, p50_ms=1.0, interval=(0.021, 0.04))).excesses
    perhaps = bar().standing("perhaps", figures(0.03, p50_ms=1.0, interval=(-0.01, 0.07)))
    assert not perhaps.excesses
    assert perhaps.unasked_points == pytest.approx(6.5)
    assert bar().standing("little", figures(0.003, p50_ms=1.0, interval=(0.001, 0.0049))).unasked_points is None


def test_loss_that_few_sources_tell_is_not_believed() -> None:
    few, enough, alike = (figures(0.0, p50_ms=1.0, interval=(0.0, 0.0), sources=count) for count in (29, 30, None))
    assert [bar().standing("a", one).unasked_points for one in (few, enough, alike)] == [0.0, None, None]


def test_front_goes_by_noise_where_few_sources_tell_the_loss() -> None:
    lucky, near = (
        figures(drop, p50_ms=1.0, sources=6).model_copy(update={"noise_db": noise})
        for drop, noise in ((-0.04, -7.0), (0.0, -17.0))
    )
    assert lucky.objectives > near.objectives
    lucky, near = (one.model_copy(update={"noise_db": None}) for one in (lucky, near))
    assert lucky.objectives < near.objectives


def test_floor_is_held_against_the_interval_of_the_metric() -> None:
    found = figures(0.0, p50_ms=1.0, interval=(0.0, 0.0))  # 0.79, and 0.6 at the unfavourable end
    assert bar(metric_floor=0.7).standing("perhaps", found).unasked_points == pytest.approx(10.0)
    assert bar(metric_floor=0.6).standing("surely", found).unasked_points is None
