"""`compress --auto`: what it asks for, what it shows of a search that a worker has done, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from server.cli.app import app
from server.database.tables import choices, job_runs, jobs, model_versions

Registry = Any
Run = Callable[..., Result]
SEARCH = ("compress", "net@1", "--profile", "pi-4", "--auto")
REFUSAL: dict[str, Any] = {
    "limit": "ram_bytes",
    "allowed": 1,
    "nearest": 2,
    "sentence": "no variant fits pi-4: ram_bytes may be 1, and the nearest miss (float32-trial0) has 2",
}


def trial(number: int, name: str, steps: list[str], p50_ms: float, size: int, *, verdict: str) -> dict[str, Any]:
    latency = {"runtime": "litert", "delegate": "xnnpack", "p50_ms": p50_ms, "p95_ms": p50_ms}
    figures = {
        "latency": latency,
        "raw_bytes": size,
        "download_bytes": size,
        "storage_bytes": size,
        "metric": {"value": 0.9, "origin": "host"},
        "metric_drop": 0.01,
    }
    recipe = {"name": name, "steps": [{"step": step, "parameters": {}} for step in steps]}
    told = {"number": number, "parameters": {}, "recipe": recipe, "figures": figures, "seconds": 1.0}
    return {**told, "verdict": verdict}


FOUND: dict[str, Any] = {
    "metric": "top1",
    "float_metric": {"value": 0.91, "origin": "host"},
    "seed": 5,
    "trials": [
        trial(0, "float32", ["export-litert"], 7.0, 18_000_000, verdict="fits"),
        trial(
            1,
            "auto-static-int8-0123abcd",
            ["prune-channels", "export-litert", "static-int8"],
            2.0,
            3_000_000,
            verdict="unproven",
        ),
        {"number": 2, "recipe": {"name": "x", "steps": [{"step": "cluster"}]}, "refusal": "no layer is large enough"},
    ],
    "front": [0, 1],
    "best": 1,
    "reason": "auto-static-int8-0123abcd is the fastest of 2, 2 ms; the nearest alternative is slower.",
    "notes": ["there is no training data (push it with --train): steps that train were not tried"],
    "latencies": {
        "a" * 64: {
            "runtime": "litert",
            "delegate": "xnnpack",
            "p50_ms": 7.0,
            "p95_ms": 7.0,
            "host_cpu_model": "Cortex-A72",
        }
    },
}


@pytest.fixture
def run(registry: Registry) -> Run:
    """Run a command against a registry that has net@1 and pi-4."""
    version = {
        "model": "net",
        "version": "1",
        "task": "classification",
        "metric": "top1",
        "signature": {"inputs": [{"name": "x", "shape": [-1, 2]}], "outputs": [{"name": "y", "shape": [-1, 2]}]},
        "preprocessing": {},
        "labels": [],
        "splits": {"calibration": 1, "selection": 1, "test": 2, "groups": 4},
        "parameters": 6,
        "source_sha256": "0" * 64,
        "source_bytes": 10,
        "eval_sha256": "1" * 64,
        "created_at": 1.0,
    }
    of_version = ("model", "version", "task", "metric", "source_sha256", "source_bytes", "eval_sha256", "created_at")
    with registry.catalogue.write() as connection:
        row = {**{name: version[name] for name in of_version}, "document": version}
        connection.execute(sa.insert(model_versions).values(row))

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=registry.environment)
        assert result.exit_code == exit_code, result.output
        return result

    invoke("profile", "add", "pi-4")
    return invoke


def requests(registry: Registry) -> list[dict[str, Any]]:
    with registry.catalogue.read() as connection:
        return list(connection.execute(sa.select(jobs.c.request).order_by(jobs.c.created_at)).scalars())


@pytest.fixture
def done(registry: Registry, run: Run) -> Callable[..., None]:
    """Write what a worker writes at the end of a search that was asked for with these arguments."""

    def finish(*arguments: str, refusal: dict[str, Any] | None = None) -> None:
        asked = json.loads(run(*SEARCH, *arguments, "--no-wait", "--json").stdout)
        ended = {
            "job_id": asked["job_id"],
            "state": "done",
            "worker": "test",
            "attempt": 1,
            "lease_until": 0.0,
            "started_at": 1.0,
            "finished_at": 2.0,
            "progress": {"stage": "done", "done": 1, "of": 1},
            "result": {"variants": 2, "choices": {}, "search": FOUND},
        }
        choice = {"model": "net", "version": "1", "profile": "pi-4", "created_at": 1.0, "refusal": refusal or sa.null()}
        with registry.catalogue.write() as connection:
            connection.execute(sa.insert(job_runs).values(ended))
            connection.execute(sa.insert(choices).values(choice))

    return finish


def test_search_shows_its_front_with_the_best_marked_and_says_why(run: Run, done: Callable[..., None]) -> None:
    done("--trials", "3")
    shown = run(*SEARCH, "--trials", "3").stdout
    lines = shown.splitlines()
    assert lines[0].startswith("3 recipes tried, 1 of them could not be built; top1 of the float model")
    best = next(line for line in lines if line.startswith("*"))
    assert "auto-static-int8-0123abcd" in best
    assert " unproven " in best, "what nobody knows of this CPU is not met"
    assert any(" met " in line and "float32" in line for line in lines)
    assert "prune-channels > export-litert > static-int8" in best
    assert shown.index("auto-static-int8-0123abcd") < shown.index("float32")  # the fastest first
    assert FOUND["reason"] in lines
    assert FOUND["notes"][0] in lines


def test_search_that_found_nothing_within_the_limits_ends_with_the_nearest_miss(
    run: Run, done: Callable[..., None]
) -> None:
    done("--trials", "3", refusal=REFUSAL)
    ended = run(*SEARCH, "--trials", "3", exit_code=1)
    assert REFUSAL["sentence"] in ended.stderr


def test_what_json_prints_can_be_replayed_with_its_seed_and_trials(
    run: Run, done: Callable[..., None], registry: Registry, tmp_path: Path
) -> None:
    done("--trials", "3")
    found = run(*SEARCH, "--trials", "3", "--json").stdout
    (tmp_path / "search.json").write_text(found)
    run(*SEARCH, "--replay", str(tmp_path / "search.json"), "--no-wait")
    replayed = requests(registry)[-1]
    assert (replayed["seed"], replayed["trials"], replayed["seconds"]) == (5, 3, None)
    assert replayed["replay"]["a" * 64]["p50_ms"] == 7.0
    assert replayed["replay"]["a" * 64]["host_cpu_model"] == "Cortex-A72", "what ran it, whichever worker replays it"


def test_budget_is_ten_minutes_unless_something_else_ends_the_search(run: Run, registry: Registry) -> None:
    for arguments in ([], ["--budget", "90s"], ["--trials", "4"], ["--budget", "1m", "--trials", "5", "--until-fits"]):
        run(*SEARCH, *arguments, "--no-wait")
    asked = [(one["seconds"], one["trials"], one["until_fits"]) for one in requests(registry)]
    assert asked == [(600.0, None, False), (90.0, None, False), (None, 4, False), (60.0, 5, True)]


def test_device_that_trains_goes_with_searches_and_builds(run: Run, registry: Registry) -> None:
    run(*SEARCH, "--trials", "1", "--no-wait")
    run(*SEARCH, "--trials", "1", "--device", "auto", "--no-wait")
    run("variant", "build", "net@1", "--device", "cuda", "--no-wait")
    assert [one["device"] for one in requests(registry)] == ["cpu", "auto", "cuda"]
    assert "'tpu' is not one of" in run(*SEARCH, "--device", "tpu", exit_code=2).stderr


def test_recipe_that_was_found_is_saved_to_be_built_of_another_version(
    run: Run, done: Callable[..., None], registry: Registry, tmp_path: Path
) -> None:
    done("--trials", "3")
    path = tmp_path / "best.yaml"
    run(*SEARCH, "--trials", "3", "--save-recipe", str(path))
    run("variant", "build", "net@1", "--recipe-file", str(path), "--no-wait")
    (sent,) = requests(registry)[-1]["own_recipes"]
    assert sent["name"] == "auto-static-int8-0123abcd"
    assert [step["step"] for step in sent["steps"]] == ["prune-channels", "export-litert", "static-int8"]


def test_recipe_that_cannot_be_saved_is_said_before_or_after_the_search(
    run: Run, done: Callable[..., None], registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "absent" / "best.yaml"
    ended = run(*SEARCH, "--save-recipe", str(path), exit_code=1)
    assert "can't be written" in ended.stderr
    assert "leave --no-wait out" in run(*SEARCH, "--no-wait", "--save-recipe", "x.yaml", exit_code=2).stderr
    assert requests(registry) == []
    done("--trials", "3")
    path.parent.mkdir()
    path.mkdir()
    assert "Is a directory" in run(*SEARCH, "--trials", "3", "--save-recipe", str(path), exit_code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("--profile", "pi-4"), 2, "add --auto"),
        (("--profile", "nope", "--auto"), 1, "There is no profile nope"),
        (("--profile", "pi-4", "--auto", "--budget", "soon"), 2, "'soon' is no duration"),
        (("--profile", "pi-4", "--auto", "--budget", ""), 2, "'' is no duration"),  # a variable that was never set
        (("--profile", "pi-4", "--auto", "--budget", "5h"), 1, "A search may take 2880 s here"),
        (("--profile", "pi-4", "--auto", "--trials", "1000000"), 2, "trials is 1000000"),
        (("--profile", "pi-4", "--auto", "--replay", "/nowhere.json"), 1, "can't be read"),
    ],
)
def test_search_that_cannot_be_is_one_sentence(
    run: Run, arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    ended = run("compress", "net@1", *arguments, exit_code=exit_code)
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_replay_of_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    for text, words in (("{nope", "is no JSON"), ("[1]", "holds no search"), ('{"latencies": {}}', "holds no search")):
        (tmp_path / "it.json").write_text(text)
        ended = run(*SEARCH, "--replay", str(tmp_path / "it.json"), exit_code=1)
        assert words in ended.stderr
