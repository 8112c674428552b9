"""Recipes on the command line: what there is, one's own from a file, and what becomes of one that can't be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from server.cli.app import app
from server.database.tables import job_runs, jobs, variants

Registry = Any
Run = Callable[..., Result]
OWN = "name: half\nsteps:\n- {step: prune-channels, parameters: {macs: 0.5}}\n- {step: export-litert}\n"


@pytest.fixture
def run(registry: Registry, add_version: Callable[..., None]) -> Run:
    """Run a command against a registry that has net@1 and pi-4."""
    add_version()

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=registry.environment)
        assert result.exit_code == exit_code, result.output
        return result

    invoke("profile", "add", "pi-4")
    return invoke


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "half.yaml"
    path.write_text(OWN)
    return path


def requests(registry: Registry) -> list[dict[str, Any]]:
    with registry.catalogue.read() as connection:
        return list(connection.execute(sa.select(jobs.c.request)).scalars())


@pytest.fixture
def built(registry: Registry) -> Callable[..., None]:
    """Write what a worker writes at the end of a build: variants by recipe, each with its verdict and reason."""

    def finish(job: dict[str, Any], rows: list[tuple[str, str, str]]) -> None:
        ended = {"job_id": job["job_id"], "state": "done", "worker": "test", "attempt": 1, "lease_until": 0.0}
        ended |= {"started_at": 1.0, "finished_at": 2.0, "progress": {}, "result": {}}
        with registry.catalogue.write() as connection:
            connection.execute(sa.insert(job_runs).values(ended))
            for number, (recipe, verdict, reason) in enumerate(rows):
                names = {"model": "net", "version": "1", "profile": "pi-4", "variant_id": f"{recipe}-{number}"}
                told = {"recipe": recipe, "runtime": "litert", "delegate": "none", "verdict": verdict, "chosen": False}
                row = {**names, **told, "created_at": 2.0}
                connection.execute(sa.insert(variants).values({**row, "document": {**row, "reason": reason}}))

    return finish


def test_list_shows_recipes_with_their_steps_and_marks_the_usual_ones(run: Run) -> None:
    lines = run("recipe", "list").stdout.splitlines()
    assert {line.split()[1] for line in lines if line.startswith("*")} >= {"float32", "static-int8", "onnx-float32"}
    (uint8,) = (line for line in lines if "static-int8-uint8io" in line)
    assert "export-litert > static-int8 io=uint8" in uint8
    assert not uint8.startswith("*")
    assert {one["name"] for one in json.loads(run("recipe", "list", "--json").stdout)} >= {"float32", "static-int16"}


def test_show_prints_a_recipe_that_can_be_built_under_another_name(
    run: Run, registry: Registry, tmp_path: Path
) -> None:
    shown = run("recipe", "show", "static-int8-uint8io").stdout
    path = tmp_path / "mine.yaml"
    path.write_text(shown.replace("static-int8-uint8io", "mine"))
    run("variant", "build", "net@1", "--recipe-file", str(path), "--no-wait")
    (request,) = requests(registry)
    (sent,) = request["own_recipes"]
    assert (sent["name"], sent["steps"][1]["parameters"]) == ("mine", {"io": "uint8"})


def test_steps_tell_what_a_step_can_be_told(run: Run) -> None:
    table = run("recipe", "steps").stdout
    assert "prune-channels-hessian" in table
    shown = run("recipe", "steps", "fine-tune").stdout
    assert "the version needs rows of --train" in shown
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("epochs"))
    assert row == ["epochs", "10", "integer", "from", "1", "to", "1000"]
    assert "It has no parameters." in run("recipe", "steps", "export-litert").stdout
    assert [one["name"] for one in json.loads(run("recipe", "steps", "cluster", "--json").stdout)] == ["cluster"]


@pytest.mark.parametrize(("verb", "kind"), [("show", "ready-made recipe"), ("steps", "step")])
def test_name_that_is_not_there_is_answered_with_those_that_are(run: Run, verb: str, kind: str) -> None:
    ended = run("recipe", verb, "int2", exit_code=1)
    assert f"There is no {kind} int2: there are " in ended.stderr
    assert "static-int8" in ended.stderr


def test_build_sends_recipes_of_ones_own_beside_ready_made_ones(run: Run, registry: Registry, own: Path) -> None:
    run("variant", "build", "net@1", "--recipe", "float32", "--recipe-file", str(own), "--no-wait")
    (request,) = requests(registry)
    assert (request["recipes"], [one["name"] for one in request["own_recipes"]]) == (["float32"], ["half"])
    assert request["own_recipes"][0]["steps"][0] == {
        "step": "prune-channels",
        "parameters": {"macs": 0.5},
        "max_drop": None,
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can't be read: No such file or directory"),
        (b"\xff\xfe", "is no UTF-8 text, so it holds no recipe"),
        (b"name: half\n", "The recipe: steps is missing."),
        (b"#" * 70_000, "is larger than 65536 bytes, so it holds no recipe"),
        ("é".encode() * 40_000, "is larger than 65536 bytes, so it holds no recipe"),
        (OWN.replace("macs", "macs: 1, macs").encode(), "'macs' is there twice"),
        (OWN.replace("half", "float32").encode(), "float32 is a ready-made recipe, and has other steps"),
    ],
)
def test_file_that_holds_no_recipe_of_ones_own_asks_for_nothing(
    run: Run, registry: Registry, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    ended = run("variant", "build", "net@1", "--recipe-file", str(path), exit_code=1)
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert requests(registry) == []


def test_two_files_of_one_name_ask_for_nothing(run: Run, registry: Registry, own: Path) -> None:
    ended = run("variant", "build", "net@1", "--recipe-file", str(own), "--recipe-file", str(own), exit_code=1)
    assert "two recipes have the name half: rename one of them" in ended.stderr
    assert requests(registry) == []


def test_build_of_a_recipe_that_the_job_refuses_says_why_and_exits_1(
    run: Run, own: Path, built: Callable[..., None]
) -> None:
    command = ("variant", "build", "net@1", "--recipe", "float32", "--recipe-file", str(own))
    (job,) = json.loads(run(*command, "--no-wait", "--json").stdout)
    built(job, [("float32", "fits", ""), ("half", "unmeasured", "too narrow"), ("half", "unmeasured", "too narrow")])
    assert "half can't be had: too narrow." in run(*command, exit_code=1).stderr


def test_build_of_a_recipe_that_runs_on_one_target_of_two_is_a_success(
    run: Run, own: Path, built: Callable[..., None]
) -> None:
    command = ("variant", "build", "net@1", "--recipe-file", str(own))
    (job,) = json.loads(run(*command, "--no-wait", "--json").stdout)
    built(job, [("half", "unmeasured", "signal 9"), ("half", "misses", "too slow"), ("other", "unmeasured", "no")])
    run(*command)
