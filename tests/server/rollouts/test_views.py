from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from edge_agent.protocol.states import DeploymentState, Reason
from server.database import tables
from server.rollouts.facts import CANCELLED, NO_VARIANT, OFFERED, RUNNING, TIMED_OUT, WAITING, Why
from server.rollouts.views import get_rollout, list_rollouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.database.connect import Database

STATES = (WAITING, OFFERED, RUNNING, TIMED_OUT, NO_VARIANT, CANCELLED, *map(str, DeploymentState))
REASONS = ("none", str(Why.LOST), str(Why.SILENT), str(Why.ROLLBACK), str(Reason.DISK_FULL), "golden_mismatch")
COPIES = 3


@pytest.fixture
def database(new_database: Callable[[str], Database]) -> Database:
    """Two rollouts with deployments of every kind, each thrice, and one without any."""
    found = new_database("registry")
    kinds = list(product(("r1", "r2"), (0, 1), STATES, REASONS, (False, True), range(COPIES)))
    with found.write() as connection:
        tables.catalogue.create_all(connection)
        for number, rollout_id in enumerate(("r1", "r2", "r3")):
            plan = {"model": "m", "version": "1", "selector": "", "waves": [], "seed": 1, "options": {}}
            row = {**plan, "rollout_id": rollout_id, "created_at": float(number)}
            connection.execute(sa.insert(tables.rollouts).values(row))
        rows = [
            {
                "deployment_id": f"dep-{number}",
                "rollout_id": rollout_id,
                "device_id": f"d{number}",
                "wave": wave,
                "profile": "pi",
                "model": "m",
                "version": "1",
                "state": state,
                "reason": reason,
                "detail": "",
                "canary": canary,
                "updated_at": 0.0,
            }
            for number, (rollout_id, wave, state, reason, canary, _) in enumerate(kinds)
        ]
        connection.execute(sa.insert(tables.deployments), rows)
    return found


def test_list_counts_as_the_single_view_does_and_reads_no_single_deployment(database: Database) -> None:
    asked: list[str] = []

    def listen(_c: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", listen)
    listed = {rollout.rollout_id: rollout for rollout in list_rollouts(database)}
    sa.event.remove(database.engine, "before_cursor_execute", listen)
    assert not [statement for statement in asked if "deployment_id" in statement]
    assert list(listed) == ["r3", "r2", "r1"]
    assert listed["r3"].waves == ()
    for rollout_id in ("r1", "r2"):
        assert listed[rollout_id].waves == get_rollout(database, rollout_id).waves
        assert [wave.devices for wave in listed[rollout_id].waves] == [len(STATES) * len(REASONS) * 2 * COPIES] * 2


def test_get_tells_which_lane_has_stopped_and_why(database: Database) -> None:
    common = {"rollout_id": "r3", "wave": 0, "model": "m", "version": "1", "canary": False, "updated_at": 0.0}
    rows = [
        ("pi", "crash_loop", "rolled_back", "3 crashes in 60 s"),
        ("pi", "none", "running", ""),
        ("zero", "none", "running", ""),
    ]
    with database.write() as connection:
        for number, (profile, reason, state, detail) in enumerate(rows):
            row = {"deployment_id": f"x{number}", "device_id": f"x{number}", "profile": profile, "reason": reason}
            row |= {"state": state, "detail": detail, "variant_id": f"v-{profile}"}
            connection.execute(sa.insert(tables.deployments).values(**common, **row))
    (stop,) = get_rollout(database, "r3").stopped_lanes
    assert (stop.profile, stop.variant_id, stop.wave) == ("pi", "v-pi", 0)
    assert stop.cause == (
        "1 of 2 devices of wave 1 in lane pi failed, 0 are allowed; the first is x0: crash_loop, 3 crashes in 60 s"
    )
