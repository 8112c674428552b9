"""What goes and what stays, on real databases and a real store; the clock is moved on instead of waiting."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import Desired, DesiredDeployment
from server.database import tables
from server.errors import StorageUnavailableError
from server.retention.merging import DAY_S
from server.retention.sweep import preview, sweep_cache, sweep_decisions, sweep_objects, sweep_reports
from server.settings import RegistrySettings
from server.storage.prepare import prepare
from tests.server.manifests import manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from server.database.connect import Database
    from server.schemas.retention import Swept
    from server.storage import S3ObjectStore
    from tests.server.conftest import S3Server

NOW = time.time()
LATER = NOW + 8 * DAY_S  # later than the grace of an object


@pytest.fixture(scope="module")
def store(s3_server: S3Server) -> Iterator[S3ObjectStore]:
    """A bucket of these tests alone: what others have put is named by nobody here."""
    own = replace(s3_server, bucket=f"sweep-{uuid.uuid4().hex[:12]}").store()
    prepare(own)
    yield own
    own.close()


@dataclass(frozen=True)
class Parts:
    """What is swept."""

    catalogue: Database
    telemetry: Database
    objects: S3ObjectStore
    settings: RegistrySettings


@pytest.fixture
def parts(tmp_path: Path, store: S3ObjectStore, new_database: Callable[[str], Database]) -> Parts:
    catalogue, telemetry = (new_database(name) for name in ("registry", "telemetry"))
    tables.catalogue.create_all(catalogue.engine)
    tables.telemetry.create_all(telemetry.engine)
    return Parts(catalogue, telemetry, store, RegistrySettings(data_dir=tmp_path))


def swept(parts: Parts, kind: str, *, now: float = LATER, dry_run: bool = False) -> Swept:
    told = preview(parts.catalogue, parts.telemetry, parts.objects, parts.settings, now=now)
    match kind:
        case "reports":
            found = sweep_reports(parts.telemetry, parts.settings, now=now, dry_run=dry_run)
        case "decisions":
            found = sweep_decisions(parts.catalogue, parts.settings, now=now, dry_run=dry_run)
        case "objects":
            found = sweep_objects(parts.catalogue, parts.objects, parts.settings, now=now, dry_run=dry_run)
        case _:
            found = sweep_cache(parts.settings, now=now, dry_run=dry_run)
    assert found in told, "what was said before is what goes"
    return found


def put(store: S3ObjectStore, text: str = "") -> str:
    return store.put_bytes((text or uuid.uuid4().hex).encode()).sha256


def put_variant(store: S3ObjectStore, content: str) -> tuple[str, str]:
    """A manifest and its object."""
    manifest = manifest_of(content.encode())
    text = manifest.model_dump_json().encode()
    return store.put_bytes(text).sha256, store.put_bytes(content.encode()).sha256


def wanted(manifest_sha256: str) -> DesiredDeployment:
    return DesiredDeployment(
        deployment_id="dep-1",
        model="m",
        version="1",
        variant_id="v",
        manifest_sha256=manifest_sha256,
        manifest_bytes=10,
    )


def insert(database: Database, table: sa.Table, **values: Any) -> None:  # noqa: ANN401  of any column
    with database.write() as connection:
        connection.execute(sa.insert(table).values(**values))


def add_inspection(database: Database, job_id: str, files: list[str], state: str | None) -> None:
    stored = [{"sha256": sha256, "size_bytes": 1} for sha256 in files]
    form = {"task": "classification", "metric": "top1"}
    request = {"source": stored[0], "data": stored[1], "train": stored[2], "form": form}
    job = {"job_id": job_id, "kind": "inspect", "dedupe_key": job_id.ljust(64, "0"), "model": "m", "version": "1"}
    insert(database, tables.jobs, **job, request=request, created_at=NOW)
    if state is not None:
        run = {"job_id": job_id, "state": state, "worker": "w", "attempt": 1, "lease_until": 0, "started_at": NOW}
        insert(database, tables.job_runs, **run, progress={})


def add_report(database: Database, archive_sha256: str, shifted_sha256: str) -> None:
    """A report that is there, and a wish for another one with a second set."""
    key = {"model": "m", "version": "1", "profile": "pi", "variant_id": "v", "shifted_sha256": ""}
    insert(database, tables.variant_reports, **key, archive_sha256=archive_sha256, document={}, created_at=NOW)
    request = {"profile": "pi", "variant_id": "v", "shifted": {"sha256": shifted_sha256, "size_bytes": 1}}
    job = {"job_id": "j10", "kind": "report", "dedupe_key": "j10", "model": "m", "version": "1"}
    insert(database, tables.jobs, **job, request=request, created_at=NOW)


def name_everything(parts: Parts, store: S3ObjectStore) -> set[str]:
    """Every way in which an object can be needed; what is named."""
    catalogue = parts.catalogue
    source, data, train = (put(store) for _ in range(3))
    version = {"model": "m", "version": "1", "task": "classification", "metric": "top1", "source_bytes": 1}
    digests = {"source_sha256": source, "eval_sha256": data, "train_sha256": train}
    insert(catalogue, tables.model_versions, **version, **digests, document={}, created_at=NOW)
    queued, running, given_back = ([put(store) for _ in range(3)] for _ in range(3))
    add_inspection(catalogue, "j1", queued, None)
    add_inspection(catalogue, "j2", running, "running")
    add_inspection(catalogue, "j9", given_back, "queued")
    for number, state in enumerate((None, "queued", "cancelled")):  # nobody needs the files of a cancelled push
        add_inspection(catalogue, f"c{number}", [put(store) for _ in range(3)], state)
        insert(catalogue, tables.job_cancellations, job_id=f"c{number}", cancelled_by="", created_at=NOW)
    insert(catalogue, tables.job_cancellations, job_id="j2", cancelled_by="", created_at=NOW)  # still being stopped
    report, second = put(store), put(store)
    add_report(catalogue, report, second)
    manifest, object_ = put_variant(store, "built and never chosen")
    variant = {"model": "m", "version": "1", "profile": "pi", "variant_id": "v", "recipe": "float32"}
    run_on = {"runtime": "litert", "delegate": "xnnpack", "verdict": "misses", "chosen": False, "document": {}}
    shas = {"manifest_sha256": manifest, "object_sha256": object_}
    insert(catalogue, tables.variants, **variant, **run_on, **shas, created_at=NOW)
    # no row of `variants` has these: they were built again since then
    desired, desired_object = put_variant(store, "a device is wanted to run it")
    document = Desired(epoch=1, generation=1, deployments=(wanted(desired),)).model_dump(mode="json")
    insert(catalogue, tables.desired, device_id="d", epoch=1, generation=1, document=document, updated_at=NOW)
    before, before_object = put_variant(store, "a device would go back to it")
    deployment = {"deployment_id": "dep-2", "rollout_id": "r", "device_id": "d", "wave": 0, "profile": "pi"}
    told = {"model": "m", "version": "2", "state": "running", "reason": "none", "detail": "", "updated_at": NOW}
    delta, gone = put(store), put(store)
    for target, base, one in ((manifest, desired, delta), (desired, "0" * 64, gone)):
        row = {"manifest_sha256": target, "base_manifest_sha256": base, "object_sha256": one, "document": {}}
        insert(catalogue, tables.deltas, **row, created_at=NOW)
    previous = wanted(before).model_dump(mode="json")
    insert(catalogue, tables.deployments, **deployment, **told, previous=previous)
    named = {source, data, train, manifest, object_, desired, desired_object, before, before_object, delta}
    return named | set(queued) | set(running) | set(given_back) | {report, second}


def test_sweep_objects_deletes_what_nobody_names_and_nothing_else(parts: Parts, store: S3ObjectStore) -> None:
    named = name_everything(parts, store)
    failed = [put(store) for _ in range(3)]
    add_inspection(parts.catalogue, "j3", failed, "failed")
    unnamed = {put(store), *failed}
    assert swept(parts, "objects", now=NOW + 6 * DAY_S).count == 0, "a push may still be on its way to name them"
    told = swept(parts, "objects", dry_run=True)
    # tests before this one may have left some, too
    assert unnamed <= set(told.names)
    assert not named & set(told.names)
    assert all(store.exists(sha256) for sha256 in unnamed), "only asked"
    assert set(swept(parts, "objects").names) == set(told.names)
    assert not any(store.exists(sha256) for sha256 in unnamed)
    assert all(store.exists(sha256) for sha256 in named)
    assert swept(parts, "objects").count == 0


def test_sweep_objects_frees_what_a_retired_version_had_once_it_can_not_be_brought_back(
    parts: Parts, store: S3ObjectStore
) -> None:
    named = name_everything(parts, store)
    version, variant = tables.model_versions.c, tables.variants.c
    with parts.catalogue.read() as connection:
        files = connection.execute(sa.select(version.source_sha256, version.eval_sha256, version.train_sha256)).one()
        built = connection.execute(sa.select(variant.manifest_sha256, variant.object_sha256)).one()
        report = connection.execute(sa.select(tables.variant_reports.c.archive_sha256)).one()
    insert(parts.catalogue, tables.retired_versions, model="m", version="1", retired_at=NOW + 2 * DAY_S)
    assert not named & set(swept(parts, "objects").names), "it may still be brought back"

    freed = named & set(swept(parts, "objects", now=NOW + 10 * DAY_S).names)

    assert freed == {*files, *built, *report}
    assert all(store.exists(sha256) for sha256 in named - freed), "devices run it, or may go back to it"


def test_sweep_objects_keeps_everything_while_a_manifest_cannot_be_read(parts: Parts, store: S3ObjectStore) -> None:
    name_everything(parts, store)
    unnamed = put(store)

    class Flaky:
        """The real store, out of reach for reading."""

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def get_bytes(self, _sha256: str) -> bytes:
            raise StorageUnavailableError("S3 does not answer.")

    flaky: Any = Flaky()
    with pytest.raises(StorageUnavailableError):
        sweep_objects(parts.catalogue, flaky, parts.settings, now=LATER)
    assert store.exists(unnamed)


def test_put_of_old_bytes_makes_them_new_so_that_no_sweep_takes_them_away(
    store: S3ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.put_bytes(b"pushed again after a year")
    before = store.describe(first.sha256)
    time.sleep(1.1)  # S3 tells whole seconds
    assert not store.put_bytes(b"pushed again after a year").created
    assert store.describe(first.sha256) == before, "what is young is left as it is"
    monkeypatch.setattr("server.storage.s3.RENEW_AFTER_S", 0.0)
    assert not store.put_bytes(b"pushed again after a year").created
    after = store.describe(first.sha256)
    assert after.stored_at > before.stored_at
    assert store.get_bytes(first.sha256) == b"pushed again after a year"
    assert [listed for listed in store.list_objects() if listed.sha256 == first.sha256] == [after]


def add_reports(parts: Parts, received_at: list[float]) -> None:
    row = {"device_id": "d", "spool_id": "5" * 32, "window_start": 0, "window_s": 10, "profile": "pi", "model": "m"}
    row |= {"version": "1", "variant_id": "v", "deployment_id": "dep", "requests": 1, "inferences": 1, "errors": {}}
    row |= {"error_count": 0, "sketches": b"", "rss_bytes": 0, "dropped_reports": 0}
    with parts.telemetry.write() as connection:
        rows = [{**row, "sequence": number, "received_at": at} for number, at in enumerate(received_at)]
        connection.execute(sa.insert(tables.reports), rows)


def sequences(parts: Parts) -> list[int]:
    with parts.telemetry.read() as connection:
        return list(connection.execute(sa.select(tables.reports.c.sequence).order_by("sequence")).scalars())


def test_sweep_reports_deletes_by_age_in_batches(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.retention.sweep.BATCH_ROWS", 3)
    old = NOW - 91 * DAY_S
    # many of one moment, as a batch of the ingest makes them
    add_reports(parts, [old, old, old, old, old + 1, old + 2, old + 3, NOW - 89 * DAY_S, NOW])
    assert swept(parts, "reports", now=NOW, dry_run=True).count == 7
    assert len(sequences(parts)) == 9
    assert swept(parts, "reports", now=NOW).count == 7
    assert sequences(parts) == [7, 8]
    assert swept(parts, "reports", now=NOW).count == 0


def test_sweep_decisions_keeps_those_of_open_rollouts_whatever_their_age(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.retention.sweep.BATCH_ROWS", 2)
    for state in ("finished", "running", "rolling_back"):
        standing = {"rollout_id": state, "state": state, "wave": 0, "reason": "", "last_command_id": 0}
        insert(parts.catalogue, tables.rollout_states, **standing, updated_at=NOW)
        for at in (NOW - 400 * DAY_S, NOW - 399 * DAY_S, NOW - 398 * DAY_S, NOW):
            decision: dict[str, Any] = {"rollout_id": state, "at": at, "action": "a", "sentence": "s", "numbers": {}}
            insert(parts.catalogue, tables.decisions, **decision)
    assert swept(parts, "decisions", now=NOW).count == 3
    with parts.catalogue.read() as connection:
        left = [row.rollout_id for row in connection.execute(sa.select(tables.decisions))]
    assert sorted(left) == ["finished", *["rolling_back"] * 4, *["running"] * 4]


def test_sweep_decisions_never_frees_the_last_number_which_sqlite_would_give_out_again(parts: Parts) -> None:
    standing = {"rollout_id": "r", "state": "finished", "wave": 0, "reason": "", "last_command_id": 0}
    insert(parts.catalogue, tables.rollout_states, **standing, updated_at=NOW)
    decision: dict[str, Any] = {"rollout_id": "r", "at": NOW - 400 * DAY_S, "action": "a", "sentence": "s"}
    for _ in range(3):
        insert(parts.catalogue, tables.decisions, **decision, numbers={})
    assert swept(parts, "decisions", now=NOW).count == 2
    insert(parts.catalogue, tables.decisions, **decision, numbers={})
    with parts.catalogue.read() as connection:
        assert connection.execute(sa.select(tables.decisions.c.decision_id)).scalars().all() == [3, 4]


def test_sweep_cache_says_and_then_deletes(parts: Parts) -> None:
    folder = parts.settings.cache_dir
    folder.mkdir()
    (folder / "a.model").write_bytes(b"x" * 100)
    told = swept(parts, "cache", now=NOW + 31 * DAY_S, dry_run=True)
    assert (told.count, told.size_bytes) == (1, 100)
    assert list(folder.iterdir())
    swept(parts, "cache", now=NOW + 31 * DAY_S)
    assert list(folder.iterdir()) == []
