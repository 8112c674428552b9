"""Deltas of a rollout: who asks for them, how long it waits, and what devices are offered."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from compressors.packing.deltas import make_delta
from edge_agent.protocol.messages import Desired, DesiredDeployment
from edge_agent.protocol.signature import ModelSignature, TensorSpec
from server.catalogue.deltas import deltas_of
from server.database import tables
from server.database.connect import Database
from server.errors import ObjectNotFoundError
from server.fleet.entitlements import object_of
from server.fleet.manifests import ManifestCache
from server.jobs.process import JobLimits
from server.jobs.runner import JobRunner, JobSettings
from server.jobs.worker import Worker
from server.retention.names import named_objects
from server.rollouts.deltas import PATIENCE_S, QUEUED_PATIENCE_S, deltas_until
from server.rollouts.facts import ChoiceFact, VariantFact
from server.rollouts.ledger import DELTA_MODELS
from server.rollouts.plan import parse_waves
from server.rollouts.preview import forecast_rollout
from server.rollouts.reading import Reader
from server.rollouts.requests import start_rollout
from server.schemas.catalogue import ModelVersion, Preprocessing, Splits, Task
from server.schemas.rollouts import RolloutRequest
from tests.server.rollouts.conftest import EPOCH_OF_REGISTRY, variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.protocol.delta import Delta
    from server.rollouts.facts import Facts
    from tests.server.rollouts.conftest import Paper, Registry

FILLER_BYTES = 100_000
REQUEST = RolloutRequest(model="m", version="2", selector="", waves=parse_waves("100%"))


def some_delta() -> Delta:
    made = make_delta(bytes(5000), bytes(4000), whole_bytes=1000, base_sha256="b" * 64)
    assert made is not None
    return made[1]


def offering_deltas(paper: Paper) -> tuple[Delta, ...]:
    """The version 2 of the profile has a delta."""
    deltas = (some_delta(),)
    known = variant("pi", "2")
    told = VariantFact(known.variant_id, "a" * 64, 100, unproven=False, model_file_sha256="2" * 64, deltas=deltas)
    paper.choices["2"] = {"pi": ChoiceFact(variant=told)}
    return deltas


def test_rollout_offers_the_deltas_of_a_variant_beside_it(make_paper: Callable[..., Paper]) -> None:
    paper = make_paper(2)
    deltas = offering_deltas(paper)
    paper.start("r", version="2")
    paper.tick()
    entry = paper.wanted("d0")
    assert entry is not None
    assert entry.deltas == deltas


def test_rollout_offers_no_deltas_to_a_device_with_so_many_models_that_desired_would_not_fit(
    make_paper: Callable[..., Paper],
) -> None:
    paper = make_paper(2)
    offering_deltas(paper)
    entry = DesiredDeployment(
        deployment_id="o", model="o", version="1", variant_id="v", manifest_sha256="a" * 64, manifest_bytes=1
    )
    paper.ledger.wanted["d0"] = {f"other{i}": entry for i in range(DELTA_MODELS)}
    paper.start("r", version="2")
    paper.tick()
    told = {device: paper.wanted(device) for device in paper.devices}
    assert {device: len(entry.deltas) for device, entry in told.items() if entry} == {"d0": 0, "d1": 1}


def test_rollout_waits_for_deltas_before_its_first_wave_and_no_longer_than_it_may(
    make_paper: Callable[..., Paper], monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = make_paper(2)
    paper.start("r", version="2")
    until, facts = paper.now + 10, paper.facts

    def with_deltas(name: str) -> Facts:
        return replace(facts(name), deltas_until=until)

    monkeypatch.setattr(paper, "facts", with_deltas)
    paper.tick()
    assert paper.wanted("d0") is None
    assert paper.ledger.standings["r"].reason == "Deltas from what devices run are being made."
    paper.tick(9)
    assert paper.wanted("d0") is not None


def push_version_two(registry: Registry) -> None:
    """The catalogue knows the version; its variants are there already."""
    tensor = TensorSpec(name="x", shape=(-1, 4))
    version = ModelVersion(
        model="m",
        version="2",
        task=Task.REGRESSION,
        metric="rmse",
        signature=ModelSignature(inputs=(tensor,), outputs=(tensor,)),
        preprocessing=Preprocessing(),
        labels=(),
        splits=Splits(calibration=1, selection=1, test=1, groups=3),
        parameters=1,
        source_sha256="5" * 64,
        source_bytes=1,
        eval_sha256="e" * 64,
        created_at=0.0,
    )
    document = version.model_dump(mode="json")
    names = ("model", "version", "task", "metric", "source_sha256", "source_bytes", "eval_sha256", "created_at")
    with registry.database.write() as connection:
        row = {name: document[name] for name in names} | {"document": document}
        connection.execute(sa.insert(tables.model_versions).values(row))


def run_version_one(registry: Registry, devices: int) -> str:
    """Every device runs it, and the registry knows; its manifest."""
    push_version_two(registry)
    row = next(row for row in registry.rows(tables.variants) if row.version == "1")
    for number in range(devices):
        device = registry.device(number)
        entry = DesiredDeployment(
            deployment_id=f"dep-{device}",
            model="m",
            version="1",
            variant_id=row.variant_id,
            manifest_sha256=row.manifest_sha256,
            manifest_bytes=row.manifest_bytes,
        )
        desired = Desired(epoch=EPOCH_OF_REGISTRY, generation=1, deployments=(entry,))
        told = {"rollout_id": "r1", "wave": 0, "profile": "pi", "model": "m", "version": "1", "state": "running"}
        document = desired.model_dump(mode="json")
        values = {"epoch": EPOCH_OF_REGISTRY, "generation": 1, "document": document, "updated_at": time.time()}
        with registry.database.write() as connection:
            connection.execute(
                sa.insert(tables.deployments).values(
                    deployment_id=entry.deployment_id,
                    device_id=device,
                    variant_id=row.variant_id,
                    reason="none",
                    detail="",
                    updated_at=0.0,
                    **told,
                )
            )
            connection.execute(sa.insert(tables.desired).values(device_id=device, **values))
        registry.runs(device, desired)
    return str(row.manifest_sha256)


def work(registry: Registry, folder: Path) -> None:
    """A worker with the real job does what is queued."""
    limits = JobLimits(memory_bytes=1 << 30, wall_s=60, cpu_s=60)
    settings = JobSettings(
        data_dir=folder, limits=limits, pythons={}, program=(sys.executable, "-m", "compressors.job")
    )
    telemetry = Database(f"sqlite:///{folder / 'telemetry.db'}")
    runner = JobRunner(registry.database, telemetry, registry.store, settings)
    assert Worker(registry.database, runner, name="w", lease_s=30.0).run_one(threading.Event())


def test_rollout_of_a_version_much_like_the_one_that_runs_gets_a_delta_that_only_its_devices_may_fetch(
    make_registry: Callable[..., Registry], tmp_path: Path
) -> None:
    registry = make_registry(2, filler_bytes=FILLER_BYTES)
    base = run_version_one(registry, 2)
    before = forecast_rollout(registry.database, REQUEST, now=time.time())
    start_rollout(registry.database, REQUEST, now=time.time())
    (job,) = registry.rows(tables.jobs)
    assert (job.kind, job.request) == ("delta", {"profiles": ["pi"]})

    work(registry, tmp_path)

    (run,) = registry.rows(tables.job_runs)
    assert (run.state, run.error, run.result) == ("done", None, {"deltas": 1, "not_worthwhile": 0})
    (row,) = registry.rows(tables.deltas)
    assert row.base_manifest_sha256 == base
    with registry.database.read() as connection:
        snapshot = Reader(lambda _sha256: None).snapshot(connection)
        named = named_objects(connection, registry.store, retired_before=0.0)
        told = deltas_of(connection, [row.manifest_sha256])
    assert snapshot is not None
    (facts,) = [facts for facts in snapshot.facts if facts.rollout.version == "2"]
    (delta,) = facts.variants["pi", "v2-pi"].deltas
    assert facts.deltas_until is None
    assert row.object_sha256 in named
    assert delta.object.size_bytes == registry.store.size_bytes(row.object_sha256) < FILLER_BYTES / 50
    (shown,) = told[row.manifest_sha256]
    assert (shown.base_version, shown.base_variant_id, shown.wire_bytes) == ("1", "v1-pi", delta.object.size_bytes)
    after = forecast_rollout(registry.database, REQUEST, now=time.time())
    whole = registry.rows(tables.variants)[0].object_bytes
    assert before.download_bytes - after.download_bytes == 2 * (whole - delta.object.size_bytes)

    entry = DesiredDeployment(
        deployment_id="d", model="m", version="2", variant_id="v2-pi", manifest_sha256=base, manifest_bytes=1
    )
    read = ManifestCache(registry.store).read
    offered = Desired(epoch=1, generation=1, deployments=(entry.model_copy(update={"deltas": (delta,)}),))
    assert object_of(offered, row.object_sha256, read) == delta.object
    with pytest.raises(ObjectNotFoundError):
        object_of(Desired(epoch=1, generation=1, deployments=(entry,)), row.object_sha256, read)


def test_rollout_to_devices_that_run_something_small_asks_for_no_delta(
    make_registry: Callable[..., Registry],
) -> None:
    registry = make_registry(1, filler_bytes=1000)
    run_version_one(registry, 1)
    start_rollout(registry.database, REQUEST, now=time.time())
    assert registry.rows(tables.jobs) == []


def test_rollout_waits_longer_for_a_delta_that_a_worker_makes_than_for_one_that_nobody_has_taken(
    make_registry: Callable[..., Registry],
) -> None:
    registry = make_registry(1, filler_bytes=FILLER_BYTES)
    run_version_one(registry, 1)
    now = time.time()
    start_rollout(registry.database, REQUEST, now=now)
    (job,) = registry.rows(tables.jobs)

    def until() -> float | None:
        with registry.database.read() as connection:
            snapshot = Reader(lambda _sha256: None).snapshot(connection)
            assert snapshot is not None
            return deltas_until(connection, snapshot.facts[0].rollout)

    assert until() == now + QUEUED_PATIENCE_S
    run = {"job_id": job.job_id, "worker": "w", "attempt": 1, "lease_until": 0, "started_at": now, "progress": {}}
    with registry.database.write() as connection:
        connection.execute(sa.insert(tables.job_runs).values(state="running", **run))
    assert until() == now + PATIENCE_S
    with registry.database.write() as connection:
        connection.execute(sa.update(tables.job_runs).values(state="failed"))
    assert until() is None
