"""`webhook status` as people type it: nothing set, all told, and a receiver that is away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from server.cli.app import app
from server.database import tables

if TYPE_CHECKING:
    from collections.abc import Callable

# The class behind this fixture lives in a conftest, which a test can't import.
Registry = Any


def run(registry: Registry, *arguments: str, exit_code: int = 0) -> str:
    environment = {"SHOAL_REGISTRY": registry.url, "NO_COLOR": "1", "COLUMNS": "220"}
    result = CliRunner().invoke(app, ["webhook", "status", *arguments], env=environment)
    assert result.exit_code == exit_code, result.output
    return result.stdout


@pytest.fixture
def decided(registry: Registry) -> Registry:
    """Two decisions, the first of which was tried in vain."""
    plan = {"model": "net", "version": "1", "selector": "", "waves": [], "seed": 1, "options": {}, "created_at": 0.0}
    attempt = {"decision_id": 1, "tried_at": 30.0, "attempts": 4, "fate": "later", "failure": "it answers 503"}
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(tables.rollouts).values(rollout_id="r1", **plan))
        for number in (1, 2):
            row = {"decision_id": number, "rollout_id": "r1", "at": 10.0 * number, "action": "planned"}
            connection.execute(sa.insert(tables.decisions).values(**row, sentence="s", numbers={}))
        connection.execute(sa.insert(tables.webhook_deliveries).values(**attempt, status=503, next_try_at=60.0))
    return registry


def test_status_without_a_webhook_says_how_to_set_one(registry: Registry) -> None:
    told = run(registry)
    assert "no webhook is set: give webhook_url in registry.toml" in told
    assert "nothing was posted yet" in told


def test_status_of_a_receiver_that_is_away_tells_the_next_try_and_no_secret(
    start_registry: Callable[..., Registry], decided: Registry
) -> None:
    set_up = start_registry(
        webhook_url="https://hooks.example/T0KEN", webhook_secret="word", database_url=decided.settings.database_url
    )
    told = run(set_up, exit_code=1)
    assert told.splitlines()[:3] == [
        "webhook https://hooks.example, signed",
        "2 to be told, the first since 1970-01-01 00:00:10",
        "next try at 1970-01-01 00:01:00",
    ]
    assert "told again later: it answers 503" in told
    assert "T0KEN" not in told
    found = json.loads(run(set_up, "--json", exit_code=1))
    assert (found["waiting"], found["deliveries"][0]["attempts"]) == (2, 4)
