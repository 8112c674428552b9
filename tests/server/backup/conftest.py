"""A small registry with something in every table that matters, on each kind of database, and a store of its own."""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import Desired, DesiredDeployment
from server.audit.trail import Asker, Change, append
from server.backup.snapshot import settle
from server.backup.take import take_backup
from server.database import tables
from server.database.connect import Database
from server.schemas.audit import Outcome
from server.settings import RegistrySettings
from server.stack.state import StackState, write_state
from server.storage.prepare import prepare
from tests.server.manifests import manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.backup.document import BackupDocument
    from server.storage import S3ObjectStore
    from tests.postgresql import PostgresServer
    from tests.server.conftest import S3Server

TAKEN_AT = 1_800_000_000.0
EPOCH = 1_700_000_000
MANIFEST = manifest_of(b"net").model_dump_json()
OBJECTS = ("source", "data", MANIFEST, "net")


def silent(_stage: str, _done: int, _of: int) -> None:
    """Nobody watches."""


@dataclass
class Registry:
    """A registry at rest, with its objects on the shared S3."""

    settings: RegistrySettings
    catalogue: Database
    telemetry: Database
    store: S3ObjectStore

    def insert(self, table: sa.Table, **values: Any) -> None:  # noqa: ANN401  of any column
        database = self.telemetry if table.metadata is tables.telemetry else self.catalogue
        with database.write() as connection:
            insert(connection, table, **values)

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        database = self.telemetry if table.metadata is tables.telemetry else self.catalogue
        with database.read() as connection:
            return [row._asdict() for row in connection.execute(sa.select(table).order_by(*table.primary_key))]

    def put(self, text: str = "") -> str:
        return self.store.put_bytes((text or uuid.uuid4().hex).encode()).sha256

    def back_up(self, folder: Path, *, now: float = TAKEN_AT) -> BackupDocument:
        return take_backup(self.settings, folder, clock=lambda: now, told=silent)


@pytest.fixture(scope="session")
def buckets(s3_server: S3Server) -> dict[str, S3Server]:
    """Two buckets for all tests of this worker: SeaweedFS gives each several of its few volumes."""
    found = {name: replace(s3_server, bucket=f"backup-{name}-{uuid.uuid4().hex[:8]}") for name in ("old", "new")}
    for server in found.values():
        store = server.store()
        prepare(store)
        store.close()
    return found


@pytest.fixture
def make_registry(
    tmp_path: Path, buckets: dict[str, S3Server], request: pytest.FixtureRequest
) -> Iterator[Callable[..., Registry]]:
    """A place for a registry with a bucket, `old` or `new`; nothing is migrated, unless files to copy are given."""
    with ExitStack() as stack:

        def make(bucket: str, *, files: Path | None = None, on: str = "sqlite", name: str = "") -> Registry:
            folder = tmp_path / f"databases-{name or bucket}"
            if files is not None:
                shutil.copytree(files, folder)
            else:
                folder.mkdir()
            urls = [f"sqlite:///{folder / file}" for file in ("registry.db", "telemetry.db")]
            if on == "postgresql":
                server: PostgresServer = request.getfixturevalue("postgresql")
                urls = [server.make_database() for _ in urls]
                for url in urls:
                    stack.callback(server.drop, url)
            settings = RegistrySettings(
                data_dir=tmp_path / (name or bucket),
                database_url=urls[0],
                telemetry_url=urls[1],
                s3_endpoint=buckets[bucket].endpoint,
                s3_bucket=buckets[bucket].bucket,
                s3_access_key=buckets[bucket].access_key,
                s3_secret_key=buckets[bucket].secret_key,
            )
            store = buckets[bucket].store()
            stack.callback(store.close)
            catalogue, telemetry = (Database(url) for url in urls)
            stack.callback(catalogue.close)
            stack.callback(telemetry.close)
            return Registry(settings, catalogue, telemetry, store)

        yield make


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    """The databases of a registry that has a version, a device with a wanted state, a rollout, jobs, and reports."""
    folder = tmp_path_factory.mktemp("filled")
    for name in ("registry.db", "telemetry.db"):
        shutil.copyfile(migrated / name, folder / name)
    catalogue, telemetry = (Database(f"sqlite:///{folder / name}") for name in ("registry.db", "telemetry.db"))
    with catalogue.write() as connection:
        connection.execute(sa.update(tables.registry).values(epoch=EPOCH))
        _add_version(connection)
        _add_device(connection)
        _add_work(connection)
        change = Change("profile.add", "profile/pi-x", after={"name": "pi-x"})
        append(connection, Asker(who="ada"), change, outcome=Outcome.DONE, now=TAKEN_AT - 600.5)
    with telemetry.write() as connection:
        connection.execute(sa.insert(tables.reports), [report(sequence) for sequence in range(3)])
    for database, name in ((catalogue, "registry.db"), (telemetry, "telemetry.db")):
        database.close()
        settle(folder / name)
    return folder


@pytest.fixture
def registry(make_registry: Callable[..., Registry], filled: Path) -> Registry:
    """A registry of the test's own, on SQLite."""
    made = make_registry("old", files=filled)
    for text in OBJECTS:
        made.put(text)
    return made


@pytest.fixture(scope="session")
def first_backup(tmp_path_factory: pytest.TempPathFactory, filled: Path, buckets: dict[str, S3Server]) -> Path:
    """A backup of such a registry, which had an `up`."""
    folder = tmp_path_factory.mktemp("first")
    server = buckets["old"]
    state = StackState(
        host="registry.example",
        ports={"api": 20001, "mqtt": 20002, "weed_master": 20003},
        api_url="http://registry.example:20001",
        mqtt_url="mqtt://registry.example:20002",
        s3_endpoint=server.endpoint,
        s3_bucket=server.bucket,
    )
    write_state(folder, state)
    store = server.store()
    for text in OBJECTS:
        store.put_bytes(text.encode())
    store.close()
    settings = RegistrySettings(
        data_dir=folder,
        database_url=f"sqlite:///{filled / 'registry.db'}",
        telemetry_url=f"sqlite:///{filled / 'telemetry.db'}",
        s3_endpoint=server.endpoint,
        s3_bucket=server.bucket,
        s3_access_key=server.access_key,
        s3_secret_key=server.secret_key,
    )
    take_backup(settings, folder / "backup", clock=lambda: TAKEN_AT, told=silent)
    for name in ("registry.db", "telemetry.db"):
        settle(filled / name)
    return folder / "backup"


@pytest.fixture
def backup(first_backup: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(first_backup, tmp_path / "backup"))


def sha256_of(text: str) -> str:
    """The name of an object."""
    return hashlib.sha256(text.encode()).hexdigest()


def report(sequence: int, *, received_at: float = TAKEN_AT - 60) -> dict[str, Any]:
    """A report of the device."""
    return {
        "device_id": "till-1",
        "spool_id": "f" * 32,
        "sequence": sequence,
        "received_at": received_at,
        "window_start": TAKEN_AT - 120,
        "window_s": 60.0,
        "profile": "pi-4",
        "model": "net",
        "version": "1",
        "variant_id": "net-1",
        "deployment_id": "dep-1",
        "requests": 5,
        "inferences": 5,
        "errors": {"timeout": 1},
        "error_count": 1,
        "sketches": bytes([0, 255, sequence]),
        "rss_bytes": 7,
        "temperature_c": None,
        "throttled": True,
        "dropped_reports": 0,
    }


def insert(connection: sa.Connection, table: sa.Table, **values: Any) -> None:  # noqa: ANN401  of any column
    """One row."""
    connection.execute(sa.insert(table).values(**values))


def _add_version(connection: sa.Connection) -> None:
    insert(
        connection,
        tables.model_versions,
        model="net",
        version="1",
        task="classification",
        metric="top1",
        source_sha256=sha256_of("source"),
        source_bytes=32,
        eval_sha256=sha256_of("data"),
        document={"labels": ["ü", None, 1.5]},
        created_at=1.0,
    )


def _add_device(connection: sa.Connection) -> None:
    insert(
        connection,
        tables.devices,
        device_id="till-1",
        profile="pi-4",
        labels={"site": "berlin"},
        key_sha256=hashlib.sha256(b"key").hexdigest(),
        facts={},
        joined_at=1.0,
    )
    entry = DesiredDeployment(
        deployment_id="dep-1",
        model="net",
        version="1",
        variant_id="net-1",
        manifest_sha256=sha256_of(MANIFEST),
        manifest_bytes=10,
    )
    document = Desired(epoch=EPOCH, generation=7, deployments=(entry,)).model_dump(mode="json")
    insert(
        connection,
        tables.desired,
        device_id="till-1",
        epoch=EPOCH,
        generation=7,
        document=document,
        published_generation=7,
        updated_at=1.0,
    )
    insert(connection, tables.device_states, device_id="till-1", last_seen_at=TAKEN_AT - 5, status={"sequence": 4})


def _add_work(connection: sa.Connection) -> None:
    for job_id, state in (("ran", "running"), ("done", "done")):
        job = {"kind": "build", "dedupe_key": job_id, "model": "net", "version": "1", "request": {}}
        insert(connection, tables.jobs, job_id=job_id, **job, created_at=1.0)
        run = {"worker": "w", "attempt": 2, "lease_until": TAKEN_AT + 30, "started_at": 1.0, "progress": {"done": 3}}
        insert(connection, tables.job_runs, job_id=job_id, state=state, **run)
    plan = {"selector": "", "waves": [{"percent": 100.0}], "seed": 0, "options": {}, "created_at": 1.0}
    for rollout_id, state in (("open", "running"), ("closed", "finished")):
        insert(connection, tables.rollouts, rollout_id=rollout_id, model="net", version="1", **plan)
        standing = {"state": state, "wave": 0, "reason": "", "last_command_id": 0, "updated_at": TAKEN_AT - 10}
        insert(connection, tables.rollout_states, rollout_id=rollout_id, **standing)
        insert(
            connection,
            tables.deployments,
            deployment_id=f"dep-{rollout_id}",
            rollout_id=rollout_id,
            device_id="till-1",
            wave=0,
            profile="pi-4",
            model="net",
            version="1",
            variant_id="net-1",
            state="running",
            reason="none",
            detail="",
            opened_at=TAKEN_AT - 20,
            updated_at=TAKEN_AT - 10,
        )
    sentence = {"rollout_id": "open", "at": 1.0, "action": "planned", "sentence": "s", "numbers": {}}
    for _ in range(2):
        insert(connection, tables.decisions, **sentence)
    insert(connection, tables.leases, name="controller", holder="gone", until=time.time() + 1e6, term=9)
    insert(connection, tables.heartbeats, process="ingest", instance="gone", beat_at=TAKEN_AT)
