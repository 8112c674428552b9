"""A whole search of a real, small network: what it finds, what it may not see, and that it can be had again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

import compressors
from compressors.contract import Recipe, StepSpec, Verdict
from compressors.errors import SearchError
from compressors.recipes import recipe_hash
from compressors.search_contract import SearchBudget, SearchRequest, SearchResult
from tests.compressors.conftest import HOST_CPU, REPOSITORY, board, inputs_of
from tests.compressors.searching import searcher

if TYPE_CHECKING:
    from compressors.contract import ProgressLine
    from compressors.search_contract import Trial
    from tests.compressors.conftest import Shared, Upload

TRIALS = 9  # the usual four, the aimed ones, and some of the sampler's


def request(
    upload: Upload,
    *,
    trials: int = TRIALS,
    limits: dict[str, float] | None = None,
    **more: Any,  # noqa: ANN401  fields of a request
) -> SearchRequest:
    return SearchRequest.model_validate(
        {
            "inputs": inputs_of(upload, task="classification", metric="top1"),
            "profile": board("camera", cpu=HOST_CPU, runtimes=("litert",), **(limits or {})),
            "budget": {"trials": trials},
            "seed": 3,
            "pythons": {"litert": sys.executable},
            "host_cpu_model": HOST_CPU,
            **more,
        }
    )


def found(trial: Trial) -> tuple[object, ...]:
    """What a trial found, without the seconds that it took."""
    return trial.number, recipe_hash(trial.recipe), trial.figures, trial.excesses, trial.refusal


@pytest.fixture(scope="session")
def recorded(shared: Shared, shapes: Upload) -> SearchResult:
    """A search that all tests share, with a cache of its own."""

    def make(folder: Path) -> None:
        lines: list[ProgressLine] = []
        result = compressors.search(request(shapes, cache_dir=folder / "cache"), lines.append)
        (folder / "result.json").write_text(result.model_dump_json())
        (folder / "lines.json").write_text(json.dumps([line.model_dump(mode="json") for line in lines]))

    return SearchResult.model_validate_json((shared.once("search", make) / "result.json").read_bytes())


@pytest.fixture
def cache(shared: Shared, recorded: SearchResult) -> Path:
    """What that search has built: other searches of the same files need not build it again."""
    assert recorded.trials
    return shared.folder / "search" / "cache"


def test_usual_recipes_come_first_and_the_best_meets_the_limits(recorded: SearchResult) -> None:
    names = [trial.recipe.name for trial in recorded.trials]
    assert names[:4] == ["float32", "dynamic-int8", "static-int8", "weight-only-int8"]
    assert len(names) == len(set(names)) == TRIALS
    assert recorded.best in recorded.front
    best = recorded.trials[recorded.best or 0]
    assert best.fits
    assert best.figures is not None
    assert recorded.trials[0].figures is not None
    assert best.figures.download_bytes < recorded.trials[0].figures.download_bytes
    assert best.recipe.name in recorded.reason or best.recipe.name.rpartition("-")[0] in recorded.reason
    assert recorded.refusal is None
    assert recorded.build is None
    assert "steps that train were not tried" in recorded.notes[0]


def test_front_is_told_while_the_search_runs(shared: Shared, recorded: SearchResult) -> None:
    lines = json.loads((shared.folder / "search" / "lines.json").read_text())
    assert lines[0]["front"] == []
    assert [line["recipe"] for line in next(line for line in lines if line["done"] == 1)["front"]] == ["float32"]
    assert {line["trial"] for line in lines[-1]["front"]} == set(recorded.front)
    assert {line["verdict"] for line in lines[-1]["front"]} == {"fits"}
    assert (lines[-1]["done"], lines[-1]["of"]) == (TRIALS, TRIALS)


def test_replay_of_the_recorded_latencies_gives_the_same_trials(
    shapes: Upload, recorded: SearchResult, cache: Path
) -> None:
    again = compressors.search(request(shapes, cache_dir=cache, replay=recorded.latencies))
    assert list(map(found, again.trials)) == list(map(found, recorded.trials))
    assert (again.front, again.best) == (recorded.front, recorded.best)


def test_test_split_changes_nothing_of_a_search(shapes: Upload, recorded: SearchResult, tmp_path: Path) -> None:
    with np.load(shapes.data) as archive:
        arrays = dict(archive)
    splits = np.array(["calibration", "selection", "test", "test"])[arrays["group"] % 4]
    rng = np.random.default_rng(1)
    scrambled = {
        **arrays,
        "picture": np.where(
            (splits == "test")[:, None, None, None], rng.normal(0, 50, (300, 1, 12, 12)), arrays["picture"]
        ),
        "target": np.where(splits == "test", (arrays["target"] + 1) % 3, arrays["target"]),
    }
    results = []
    for name, one in (("as-it-is", arrays), ("scrambled", scrambled)):
        data = tmp_path / f"{name}.npz"
        np.savez(data, **{**one, "split": splits, "picture": one["picture"].astype(np.float32)})
        upload = type(shapes)(shapes.model, data)
        results.append(compressors.search(request(upload, trials=3, replay=recorded.latencies)))
    assert list(map(found, results[0].trials)) == list(map(found, results[1].trials))


def test_replay_without_a_row_for_a_recipe_ends_with_a_sentence(
    shapes: Upload, recorded: SearchResult, cache: Path
) -> None:
    missing = recipe_hash(Recipe(name="any", steps=(StepSpec(step="export-litert"), StepSpec(step="dynamic-int8"))))
    table = {digest: row for digest, row in recorded.latencies.items() if digest != missing}
    with pytest.raises(SearchError, match="latency table has no row for the recipe dynamic-int8: replay a search with"):
        compressors.search(request(shapes, cache_dir=cache, replay=table))


def test_limits_out_of_reach_name_the_nearest_miss(shapes: Upload, recorded: SearchResult, cache: Path) -> None:
    result = compressors.search(
        request(shapes, trials=4, limits={"download_bytes": 100}, cache_dir=cache, replay=recorded.latencies)
    )
    assert result.best is None
    assert result.refusal is not None
    assert result.refusal.limit == "download_bytes"
    smallest = min(trial.figures.download_bytes for trial in result.trials if trial.figures)
    assert result.refusal.nearest == smallest
    assert "the nearest miss" in result.refusal.sentence
    assert all(trial.excesses["download_bytes"] > 1 for trial in result.trials)


def test_profile_whose_runtimes_are_not_here_is_refused(shapes: Upload) -> None:
    with pytest.raises(SearchError, match=r"no runtime of camera is installed here \(litert\)"):
        compressors.search(request(shapes, pythons={}))


def test_search_without_an_end_is_refused() -> None:
    with pytest.raises(ValidationError, match="a search needs an end"):
        SearchBudget()


def test_latency_of_another_cpu_meets_no_limit_and_misses_none(
    shapes: Upload, recorded: SearchResult, cache: Path
) -> None:
    """A worker with the profile's CPU replays what a CPU like it, another one, and an unnamed one measured."""
    assert {row.host_cpu_model for row in recorded.latencies.values()} == {HOST_CPU}
    here, *elsewhere = (
        compressors.search(
            request(
                shapes,
                trials=2,
                limits={"latency_p95_ms": 5.0},
                cache_dir=cache,
                replay={
                    digest: row.model_copy(update={"p95_ms": 1e6, "host_cpu_model": cpu})
                    for digest, row in recorded.latencies.items()
                },
            )
        )
        for cpu in (HOST_CPU, "Another-CPU", None)
    )
    assert here.best is None
    assert {trial.number for trial in here.trials if "latency_p95_ms" in trial.excesses} == {0, 1}
    assert here.refusal is not None
    assert here.refusal.limit == "latency_p95_ms"
    for found_there in elsewhere:
        assert found_there.best is not None
        assert not any(trial.excesses for trial in found_there.trials)
        assert {trial.verdict for trial in found_there.trials} == {Verdict.UNPROVEN}
        assert not any(trial.meets_all for trial in found_there.trials)


def trials_of(cache: Path) -> list[bytes]:
    """The finished trials in the journal of a search."""
    return [line for path in cache.glob("searches/*.jsonl") for line in path.read_bytes().split(b"\n")[1:-1]]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_search_killed_five_times_ends_with_the_front_of_an_undisturbed_replay(
    shapes: Upload, recorded: SearchResult, tmp_path: Path
) -> None:
    asked = request(shapes, trials=TRIALS, cache_dir=tmp_path / "killed", replay=recorded.latencies)
    (tmp_path / "request.json").write_text(asked.model_dump_json())
    command = [sys.executable, str(Path(searcher.__file__)), str(tmp_path / "request.json"), str(tmp_path / "result")]
    rng = random.Random(7)
    for tried in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY)
        while len(trials_of(tmp_path / "killed")) < tried:  # then somewhere in the trial that follows
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    result = SearchResult.model_validate_json((tmp_path / "result").read_bytes())
    assert list(map(found, result.trials)) == list(map(found, recorded.trials))
    assert (result.front, result.best) == (recorded.front, recorded.best)
