"""From real reports in a real database to what the gates look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import DesiredDeployment, TelemetryReport
from edge_agent.protocol.sketch import new_sketch, to_wire
from server.database import tables
from server.rollouts.facts import RUNNING, Deployment, Rollout, Standing
from server.rollouts.health import LATER_S, Measured
from server.rollouts.measuring import LATER_EVERY_S, LOOK_EVERY_S, WATCH_FINISHED_S, Measurements
from server.schemas.rollouts import RolloutOptions, RolloutState, Wave
from server.telemetry.codec import pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.database.connect import Database


@pytest.fixture
def telemetry(new_database: Callable[[str], Database]) -> Database:
    database = new_database("telemetry")
    with database.write() as connection:
        tables.telemetry.create_all(connection)
    return database


def deployment() -> Deployment:
    before = DesiredDeployment(
        deployment_id="old", model="m", version="1", variant_id="v1", manifest_sha256="a" * 64, manifest_bytes=1
    )
    row = Deployment("new", "r", "d", 0, "pi", "m", "2", variant_id="v2", state=RUNNING, previous=before)
    row.running_at = 1.0
    return row


def report(
    telemetry: Database,
    sequence: int,
    deployment_id: str,
    latencies_ms: list[float],
    *,
    device: str = "d",
    **errors: int,
) -> None:
    sketch = new_sketch()
    for latency_ms in latencies_ms:
        sketch.add(latency_ms)
    requests = len(latencies_ms) + sum(number for kind, number in errors.items() if kind != "nonfinite_output")
    told = TelemetryReport(
        spool_id="5" * 32,
        sequence=sequence,
        model="m",
        version="1",
        variant_id="v",
        deployment_id=deployment_id,
        window_start=0.0,
        window_s=60.0,
        requests=requests,
        inferences=len(latencies_ms),
        errors=errors,
        invoke=to_wire(sketch),
    )
    row = told.model_dump(exclude={"v", "source", "queue", "preprocess", "invoke"})
    row = {name: value for name, value in row.items() if name in tables.reports.c}
    row |= {"device_id": device, "received_at": float(sequence), "profile": "pi", "sketches": pack(told)}
    with telemetry.write() as connection:
        connection.execute(sa.insert(tables.reports).values(**row, error_count=sum(errors.values())))


def test_look_reports_are_merged_until_they_are_enough_beside_those_before(telemetry: Database) -> None:
    clock = [0.0]
    measurements = Measurements(telemetry, clock=lambda: clock[0])
    report(telemetry, 1, "old", [10.0] * 8, invoke_failed=2)
    report(telemetry, 2, "new", [20.0] * 3, bad_request=50, nonfinite_output=1)
    row = deployment()
    assert measurements.look("r", [row], least=10, limits_ms={"pi": 15.0}) == ({}, frozenset({"new"}))
    report(telemetry, 3, "new", [20.0] * 4 + [1.0] * 4, invoke_failed=1)
    report(telemetry, 4, "new", [99.0] * 100)
    report(telemetry, 5, "new", [99.0] * 100, device="other")
    clock[0] += LOOK_EVERY_S
    measured, expected = measurements.look("r", [row], least=10, limits_ms={"pi": 15.0})
    assert expected == frozenset()
    now, before = measured["new"].now, measured["new"].before
    assert (now.attempts, now.failures) == (12, 2)
    assert now.p95_ms == pytest.approx(20.0, rel=0.02)
    assert now.over_limit == pytest.approx(7 / 11)
    assert before is not None
    assert (before.attempts, before.failures) == (10, 2)
    assert Measurements(telemetry).look("r", [row], least=10, limits_ms={"pi": 15.0})[0] == measured, "after a kill too"


def test_look_device_that_never_inferred_is_not_waited_for(telemetry: Database) -> None:
    assert Measurements(telemetry).look("r", [deployment()], least=10, limits_ms={}) == ({}, frozenset())


@pytest.mark.parametrize(("later_s", "watched"), [(0.0, True), (WATCH_FINISHED_S, True), (WATCH_FINISHED_S + 1, False)])
def test_of_finished_rollout_is_watched_for_a_week_after_its_last_device(
    telemetry: Database, *, later_s: float, watched: bool
) -> None:
    report(telemetry, 1, "new", [20.0] * 200)
    row, told = deployment(), Standing(state=RolloutState.FINISHED)
    rollout = Rollout("r", "m", "2", "", (Wave(percent=100.0),), 0, RolloutOptions(), created_at=0.0)
    measurements = Measurements(telemetry, time_of_day=lambda: (row.running_at or 0.0) + later_s)
    assert bool(measurements.of(rollout, [row], told, {})[0]) is watched


def test_look_later_times_are_read_once_each_from_reports_of_then(telemetry: Database) -> None:
    clock, began = [0.0], 1000.0
    row = deployment()
    row.running_at = began
    time_of_day = [began]
    measurements = Measurements(telemetry, clock=lambda: clock[0], time_of_day=lambda: time_of_day[0])

    def look(at: float) -> Measured:
        time_of_day[0] = began + at
        clock[0] += LOOK_EVERY_S
        return measurements.look("r", [row], least=10, limits_ms={"pi": 15.0})[0]["new"]

    report(telemetry, 1000, "new", [1.0] * 10)
    assert look(60).later == ()
    report(telemetry, 1000 + 3599, "new", [5.0] * 10)  # before the hour is over
    report(telemetry, 1000 + 3601, "new", [20.0] * 4)
    assert look(3700).later == (), "too little yet"
    report(telemetry, 1000 + 3800, "new", [20.0] * 6, invoke_failed=2)
    report(telemetry, 1000 + 3900, "new", [99.0] * 100)
    assert look(3720).later == (), "not read again at once"
    (first,) = look(3700 + LATER_EVERY_S).later
    assert first is not None
    assert (first.attempts, first.failures, first.over_limit) == (12, 2, 1.0)
    assert first.p95_ms == pytest.approx(20.0, rel=0.02)
    assert look(LATER_S[1] + 1).later == (first,), "nothing was measured a day later, and it still may be"
    report(telemetry, int(1000 + LATER_S[2] + 5), "new", [30.0] * 10)
    assert look(LATER_S[2] + 10).later == (first, None)
    assert [sample is None for sample in look(LATER_S[2] + 80).later] == [False, True, False]
    again = Measurements(telemetry, time_of_day=lambda: time_of_day[0], clock=lambda: clock[0])
    for _ in range(4):
        clock[0] += LOOK_EVERY_S
        time_of_day[0] += LATER_EVERY_S
        found = again.look("r", [row], least=10, limits_ms={"pi": 15.0})[0]["new"]
    assert found == look(LATER_S[2] + 500), "after a kill too"
