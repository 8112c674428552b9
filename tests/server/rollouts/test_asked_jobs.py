"""Asks in a real database, with the real controller and what a worker reads and writes there; the search is e2e's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from compressors.contract import BuildResult
from compressors.search_contract import SearchResult
from edge_agent.protocol.messages import Desired
from server.catalogue.jobs import cancel_job, get_job
from server.database import tables
from server.errors import DatabaseUnavailableError
from server.jobs import claims
from server.jobs.register import Searched, StoredSizes, register_build
from server.mqtt import BrokerConnection
from server.rollouts.controller import Controller
from server.rollouts.doorbell import Doorbell
from server.rollouts.manifests import ManifestFiles
from server.rollouts.reading import Reader
from server.rollouts.views import get_rollout
from server.rollouts.writing import Intervals
from server.schemas.work import SearchWork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server.conftest import S3Server
    from tests.server.rollouts.conftest import Registry

    Make = Callable[[int], Registry]

ASK: dict[str, float] = {"ask_compressor_s": 60.0, "other_variants": 0, "ask_deadline_s": 3600.0}
FIGURES = {"metric": "top1", "float_metric": {"value": 0.9}, "seed": 0, "trials": (), "front": (), "latencies": {}}


@contextmanager
def controllers(registry: Registry) -> Iterator[Callable[[], Controller]]:
    """Makes controllers that know nothing but the tables; the one before has died with its lease."""
    stop, now = threading.Event(), [time.time()]
    connection = BrokerConnection(registry.broker, f"ctl-{registry.salt}", (), lambda _: None)
    thread = threading.Thread(target=connection.run, args=(stop,))
    thread.start()

    def make() -> Controller:
        now[0] += 10
        manifests = ManifestFiles(registry.store)
        return Controller(
            registry.database,
            reader=Reader(manifests.model_file_sha256),
            manifests=manifests,
            doorbell=Doorbell(connection),
            intervals=Intervals(status_interval_s=30.0, telemetry_window_s=10.0),
            holder=f"c{now[0]}",
            clock=lambda: now[0],
        )

    try:
        assert connection.wait_ready(10)
        yield make
    finally:
        stop.set()
        connection.wake()
        thread.join()


def desired(registry: Registry, device: str) -> Desired:
    (row,) = [row for row in registry.rows(tables.desired) if row.device_id == device]
    return Desired.model_validate(row.document)


def variant_of(registry: Registry, device: str) -> str:
    return desired(registry, device).deployments[0].variant_id


def ticks(one: Controller, number: int = 3) -> None:
    for _ in range(number):
        one.tick()


def brought_to_ask(registry: Registry, one: Controller) -> None:
    """Version 1 runs on both devices; the first of version 2 rejects it."""
    registry.start("r1")
    ticks(one)
    for device in (registry.device(0), registry.device(1)):
        registry.runs(device, desired(registry, device))
    ticks(one)
    assert registry.state("r1") == "finished"
    registry.start("r2", version="2", waves="1,100%", **ASK)
    ticks(one)
    (first,) = [row.device_id for row in registry.rows(tables.deployments) if row.state == "offered"]
    registry.rejects(first, desired(registry, first), "latency_limit")


def search_ends(registry: Registry, *, variant_id: str | None) -> claims.Claim:
    """A worker claims the search and registers what it has found, if anything, as it does after a real one."""
    claim = claims.claim(registry.database, worker="w", now=time.time(), lease_s=30.0)
    assert claim is not None
    SearchWork.model_validate(claim.request)
    made, choice, sizes = [], {"profile": "pi", "variant_id": variant_id}, {}
    row = registry.found(variant_id or "too-slow")
    told = {name: row[name] for name in ("variant_id", "profile", "recipe", "runtime", "delegate", "manifest_sha256")}
    sizes = {str(row["manifest_sha256"]): row["manifest_bytes"], str(row["object_sha256"]): row["object_bytes"]}
    rank = 0 if variant_id else None
    verdict = "fits" if variant_id else "misses"
    made = [
        {**told, "object_sha256": row["object_sha256"], "verdict": verdict, "chosen": rank == 0, "rank": rank},
        # what was there already is judged anew, too
        {"variant_id": "v2-pi", "profile": "pi", "recipe": "float32", "runtime": "litert", "delegate": "xnnpack"}
        | {"verdict": "misses", "chosen": False},
    ]
    if variant_id is None:
        choice["refusal"] = {"limit": "latency_p95_ms", "allowed": 5, "nearest": 9, "sentence": "9 ms is the nearest."}  # type: ignore[assignment]
    build = BuildResult.model_validate({"float_metric": {"value": 0.9}, "variants": made, "choices": [choice]})
    search = SearchResult.model_validate({**FIGURES, "best": None, "build": build})
    searched = Searched(search, for_a_lane=bool(claim.request["rollout_id"]))
    register_build(registry.database, claim, build, StoredSizes(sizes), now=time.time(), searched=searched)  # type: ignore[arg-type]
    return claim


def test_ask_is_one_job_whoever_leads_and_what_was_found_is_offered(make_registry: Make) -> None:
    registry = make_registry(2)
    with controllers(registry) as make:
        brought_to_ask(registry, make())
        for _ in range(4):
            ticks(make(), 2)
        (job,) = registry.rows(tables.jobs)
        actions = [row.action for row in registry.rows(tables.decisions)]
        assert actions.count("compressor_asked") == 1
        work = SearchWork.model_validate(job.request)
        assert (job.kind, job.model, job.version, work.profile, work.seconds) == ("search", "m", "2", "pi", 60.0)
        assert work.rollout_id == "r2"
        view = get_rollout(registry.database, "r2")
        assert f"Lane pi waits for the compressor (job {job.job_id}, queued) until" in view.reason
        assert [(lane.asks[0].job_id, lane.asks[0].outcome) for lane in view.lanes] == [(job.job_id, "")]
        assert {variant_of(registry, registry.device(number)) for number in (0, 1)} == {"v1-pi"}

        assert search_ends(registry, variant_id="found").job_id == job.job_id
        assert get_job(registry.database, job.job_id).state == "done"
        one = make()
        for _ in range(6):
            ticks(one, 2)
            for device in (registry.device(0), registry.device(1)):
                registry.runs(device, desired(registry, device))
    view = get_rollout(registry.database, "r2")
    assert view.state == "finished", view.reason
    assert {(row.state, row.variant_id) for row in view.deployments} == {("running", "found")}
    assert view.stopped_lanes == ()
    assert len(registry.rows(tables.jobs)) == 1


def test_search_that_finds_nothing_takes_nothing_away_and_the_rollout_stops(make_registry: Make) -> None:
    registry = make_registry(2)
    with controllers(registry) as make:
        one = make()
        brought_to_ask(registry, one)
        ticks(one)
        before = {(row.variant_id, row.chosen, row.verdict) for row in registry.rows(tables.variants)}
        search_ends(registry, variant_id=None)
        ticks(one)
    assert {(row.variant_id, row.chosen, row.verdict) for row in registry.rows(tables.variants)} == before
    chosen = {row.version: row.variant_id for row in registry.rows(tables.choices)}
    assert chosen == {"1": "v1-pi", "2": "v2-pi"}
    view = get_rollout(registry.database, "r2")
    assert view.state == "stopped"
    assert "has found no variant: 9 ms is the nearest" in view.reason
    assert [lane.asks[0].outcome for lane in view.lanes] == ["nothing"]
    assert {variant_of(registry, registry.device(number)) for number in (0, 1)} == {"v1-pi"}


@pytest.mark.parametrize("worker", ["none", "stops", "dies"])
def test_search_that_is_cancelled_ends_the_wait_with_a_sentence(make_registry: Make, worker: str) -> None:
    registry = make_registry(2)
    with controllers(registry) as make:
        one = make()
        brought_to_ask(registry, one)
        ticks(one)
        (job,) = registry.rows(tables.jobs)
        claim = None
        if worker != "none":
            claim = claims.claim(registry.database, worker="w", now=time.time(), lease_s=0.1)
            assert claim is not None
        cancel_job(registry.database, job.job_id, "anna@desk", now=time.time())
        ticks(one)
        if claim is not None:
            waits = get_rollout(registry.database, "r2").reason
            assert f"Lane pi waits for the compressor (job {job.job_id}, running) until" in waits, (
                "it is not stopped yet"
            )
        if worker == "stops" and claim is not None:
            claims.end_cancelled(registry.database, claim, now=time.time())
        if worker == "dies":
            time.sleep(0.2)
            assert claims.claim(registry.database, worker="another", now=time.time(), lease_s=30.0) is None
        ticks(one)
        for _ in range(3):
            ticks(make(), 2)
    view = get_rollout(registry.database, "r2")
    assert view.state == "stopped"
    assert "has ended without a variant: This job was cancelled by anna@desk" in view.reason
    assert [lane.asks[0].outcome for lane in view.lanes] == ["failed"]
    assert [row.action for row in registry.rows(tables.decisions)].count("compressor_answered") == 1
    assert len(registry.rows(tables.jobs)) == 1, "who cancels it is not asked again"
    assert {variant_of(registry, registry.device(number)) for number in (0, 1)} == {"v1-pi"}


def test_controller_process_killed_around_the_ask_asks_once(
    make_registry: Make, s3_server: S3Server, tmp_path: Path
) -> None:
    registry = make_registry(2)
    with controllers(registry) as make:
        one = make()
        brought_to_ask(registry, one)
        one.resign()
    environment = os.environ | {
        "SHOAL_DATA_DIR": str(tmp_path),
        "SHOAL_DATABASE_URL": str(registry.database.url),
        "SHOAL_MQTT_URL": registry.broker,
        "SHOAL_S3_ENDPOINT": s3_server.endpoint,
        "SHOAL_S3_ACCESS_KEY": s3_server.access_key,
        "SHOAL_S3_SECRET_KEY": s3_server.secret_key,
    }
    command = [sys.executable, "-m", "server.processes.controller", "--interval-s", "0.01", "--lease-s", "0.3"]
    chance, kills = random.Random(5), 0
    with (tmp_path / "log").open("wb") as log:
        while "compressor_asked" not in [row.action for row in registry.rows(tables.decisions)] or kills < 3:
            process = subprocess.Popen(command, env=environment, stderr=log)
            try:
                end_s = time.monotonic() + 60
                while not registry.rows(tables.leases)[0].until > time.time() and time.monotonic() < end_s:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.05 * 2**kills))  # a busy machine gets further in the end
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
            kills += 1
            assert kills < 12
    (job,) = registry.rows(tables.jobs)
    (told,) = [row for row in registry.rows(tables.decisions) if row.action == "compressor_asked"]
    assert told.numbers["job_id"] == job.job_id
    (state,) = [row for row in registry.rows(tables.rollout_states) if row.rollout_id == "r2"]
    assert [one["job_id"] for one in state.lanes["pi"]["asks"]] == [job.job_id]


def test_ask_that_can_not_be_written_leaves_neither_job_nor_decision(
    make_registry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = make_registry(2)
    with controllers(registry) as make:
        one = make()
        brought_to_ask(registry, one)

        with monkeypatch.context() as patch:
            # the last that is written in the transaction; the job comes before it
            patch.setattr("server.rollouts.writing.tables.decisions", sa.table("nowhere", sa.column("rollout_id")))
            for _ in range(2):
                with pytest.raises(DatabaseUnavailableError):
                    one.tick()
        assert registry.rows(tables.jobs) == []
        ticks(one)
    assert len(registry.rows(tables.jobs)) == 1
