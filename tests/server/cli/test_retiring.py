"""`model retire` as people type it: said in a line, hidden by lists, and taken back."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.cli.app import app

# The class behind this fixture lives in a conftest, which a test can't import.
Registry = Any
Run = Callable[..., Result]


@pytest.fixture
def run(registry: Registry) -> Run:
    """Run a command against the registry."""

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env=registry.environment)
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


def test_versions_are_retired_hidden_and_taken_back(run: Run, add_version: Callable[..., None]) -> None:
    for version in ("1", "2"):
        add_version(version=version)
    assert "net@1 is retired" in run("model", "retire", "net@1").stdout
    assert [one["version"] for one in json.loads(run("model", "show", "net", "--json").stdout)] == ["2"]
    assert "retired" in run("model", "show", "net", "--all").stdout
    assert "retired  20" in run("model", "show", "net@1").stdout.replace("retired     ", "retired  ")
    assert "is retired" in run("variant", "build", "net@1", exit_code=1).stderr
    assert "net@1 is in use again" in run("model", "retire", "net@1", "--undo").stdout

    assert len(json.loads(run("model", "retire", "net", "--json").stdout)) == 2
    assert "no models" in run("model", "list").stdout
    assert "net" in run("model", "list", "--all").stdout
    assert "Every version of model net is retired" in run("model", "show", "net", exit_code=1).stderr
    run("model", "retire", "net", "--undo")
    assert "not retired" in run("model", "retire", "net@1", "--undo", exit_code=1).stderr


@pytest.mark.parametrize("model", ["@1", "net@", "@"])
def test_what_is_no_version_is_a_mistake_of_the_command_line(run: Run, model: str) -> None:
    assert "is neither MODEL nor MODEL@VERSION" in run("model", "retire", model, exit_code=2).stderr
