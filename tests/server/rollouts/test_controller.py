from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import Desired, Status, decode
from edge_agent.protocol.topics import DeviceTopic, device_topic, every_device, parse
from server.catalogue.jobs import cancel_job
from server.database import tables
from server.errors import StorageUnavailableError
from server.ingest.intake import StatusNews
from server.ingest.store import IngestStore
from server.mqtt import BrokerConnection, Incoming, Subscription
from server.retention.requests import ask_for_sweep
from server.rollouts.controller import Controller, Pace
from server.rollouts.doorbell import Doorbell
from server.rollouts.hearing import Hearing
from server.rollouts.lease import LeaseLostError
from server.rollouts.manifests import ManifestFiles
from server.rollouts.reading import Reader
from server.rollouts.writing import Intervals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from server.rollouts.reading import Snapshot
    from server.stack.child import Child
    from server.storage import ObjectStore
    from tests.server.conftest import S3Server
    from tests.server.rollouts.conftest import Registry

INTERVALS = Intervals(status_interval_s=30.0, telemetry_window_s=10.0)


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


def tick_until(one: Controller, condition: Callable[[], bool]) -> None:
    def ticked() -> bool:
        one.tick()
        return condition()

    wait_for(ticked)


class Fleet:
    """Every device of a registry, on one real MQTT connection: obeys each newer desired state at once."""

    def __init__(self, registry: Registry, *, obedient: bool = True) -> None:
        self.registry = registry
        self.obedient = obedient
        self.received: dict[str, list[Desired]] = {}
        self.cleared: set[str] = set()
        subscription = Subscription(every_device(DeviceTopic.DESIRED))
        self.connection = BrokerConnection(registry.broker, f"fleet-{registry.salt}", (subscription,), self.on_message)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.connection.run, args=(self.stop,))

    def __enter__(self) -> Self:
        self.thread.start()
        assert self.connection.wait_ready(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.connection.wake()
        self.thread.join()

    def on_message(self, message: Incoming) -> None:
        message.ack()
        parsed = parse(message.topic)
        assert parsed is not None
        device = parsed.device or ""
        if not device.startswith(self.registry.salt):
            return
        if not message.payload:
            self.cleared.add(device)
            return
        desired = decode(Desired, message.payload)
        known = self.received.setdefault(device, [])
        if known and desired.order < known[-1].order:
            return
        known.append(desired)
        if self.obedient:
            self.registry.runs(device, desired)


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@contextmanager
def linked(registry: Registry) -> Iterator[BrokerConnection]:
    stop = threading.Event()
    connection = BrokerConnection(registry.broker, f"ctl-{registry.salt}-{random.random()}", (), lambda _: None)
    thread = threading.Thread(target=connection.run, args=(stop,))
    thread.start()
    try:
        assert connection.wait_ready(10)
        yield connection
    finally:  # also when the test fails: the process would never end
        stop.set()
        connection.wake()
        thread.join()


def controller(
    registry: Registry,
    connection: BrokerConnection,
    *,
    clock: Callable[[], float] = time.time,
    store: ObjectStore | None = None,
    name: str = "one",
    pace: Pace | None = None,
    hearing: Hearing | None = None,
) -> Controller:
    manifests = ManifestFiles(store or registry.store)
    return Controller(
        registry.database,
        reader=Reader(manifests.model_file_sha256, hearing=hearing),
        manifests=manifests,
        doorbell=Doorbell(connection),
        intervals=INTERVALS,
        holder=name,
        pace=pace or Pace(lease_s=5.0),
        clock=clock,
    )


def actions(registry: Registry) -> list[str]:
    return [row.action for row in registry.rows(tables.decisions)]


def test_registry_that_was_away_or_deaf_takes_no_device_for_lost(make_registry: Callable[[int], Registry]) -> None:
    registry, clock, works = make_registry(1), Clock(), [True]
    registry.start("r1")
    with Fleet(registry, obedient=False) as fleet, linked(registry) as connection:

        def started(name: str) -> Controller:
            return controller(
                registry, connection, clock=clock, name=name, hearing=Hearing(lambda: works[0], clock=clock)
            )

        def looks(one: Controller, seconds: int) -> None:
            for _ in range(seconds // 50):
                clock.now += 50
                one.tick()

        one = started("one")
        tick_until(one, lambda: bool(fleet.received))
        (device,) = fleet.received
        registry.downloads(device, fleet.received[device][-1])
        one.tick()
        assert [row.state for row in registry.rows(tables.deployments)] == ["downloading"]
        one.resign()
        clock.now += 86_400  # it was stopped for a day
        one = started("two")
        looks(one, 550)
        assert registry.state("r1") == "running", "the deadline of silence is not over"
        works[0] = False  # no broker, or no ingest
        looks(one, 5000)
        works[0] = True
        looks(one, 550)
        clock.now += 1000  # its machine slept
        looks(one, 550)
        assert [row.state for row in registry.rows(tables.deployments)] == ["downloading"]
        looks(one, 150)  # and now it is the device that says nothing
    assert [(row.state, row.reason) for row in registry.rows(tables.deployments)] == [("timed_out", "lost")]
    assert registry.state("r1") == "stopped"


def test_controller_process_killed_at_any_moment_goes_on_and_decides_nothing_twice(
    make_registry: Callable[[int], Registry], s3_server: S3Server, tmp_path: Path
) -> None:
    registry = make_registry(12)
    registry.start("r1", waves="1,4,50%,100%")
    environment = os.environ | {
        "SHOAL_DATA_DIR": str(tmp_path),
        "SHOAL_DATABASE_URL": str(registry.database.url),
        "SHOAL_MQTT_URL": registry.broker,
        "SHOAL_S3_ENDPOINT": s3_server.endpoint,
        "SHOAL_S3_ACCESS_KEY": s3_server.access_key,
        "SHOAL_S3_SECRET_KEY": s3_server.secret_key,
    }
    command = [sys.executable, "-m", "server.processes.controller", "--interval-s", "0.05", "--lease-s", "0.3"]
    chance = random.Random(3)
    kills = 0
    with Fleet(registry) as fleet, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
        try:
            for opened in (1, 4, 6):
                wait_for(lambda opened=opened: len(fleet.received) >= opened)  # type: ignore[misc]  # bound on purpose
                time.sleep(chance.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                process = subprocess.Popen(command, env=environment, stderr=log)
            wait_for(lambda: registry.state("r1") == "finished")
            wait_for(lambda: {row.published_generation for row in registry.rows(tables.desired)} == {1})
            old = {"decision_id": 0, "rollout_id": "r1", "at": 1.0, "action": "old", "sentence": "", "numbers": {}}
            with registry.database.write() as connection:
                connection.execute(sa.insert(tables.decisions).values(old))
            ask_for_sweep(registry.database, now=2.0)
            wait_for(lambda: "old" not in actions(registry))
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
    assert kills == 3
    assert Counter(actions(registry)) == {"planned": 1, "wave_opened": 4, "finished": 1}
    assert Counter(row.state for row in registry.rows(tables.deployments)) == {"running": 12}
    for device, known in fleet.received.items():
        assert {(desired.epoch, desired.generation) for desired in known} == {(7, 1)}, device
        assert {entry.limits.latency_p95_ms for entry in known[-1].deployments} == {40.0}
    (lease,) = registry.rows(tables.leases)
    assert (lease.term, lease.until) == (4, 0.0)


def test_controller_second_one_waits_and_the_first_is_fenced_off_after_its_lease(
    make_registry: Callable[[int], Registry],
) -> None:
    registry = make_registry(2)
    clock = Clock()
    with linked(registry) as connection:
        first = controller(registry, connection, clock=clock, name="first")
        second = controller(registry, connection, clock=clock, name="second")
        first.tick()
        second.tick()
        assert (first.leads, second.leads) == (True, False)
        clock.now += 6
        second.tick()
        assert second.leads
        registry.start("r1")
        with pytest.raises(LeaseLostError):
            first.tick()
        assert registry.rows(tables.deployments) == []
        second.tick()
        assert len(registry.rows(tables.deployments)) == 2
        second.resign()
        third = controller(registry, connection, clock=clock, name="third")
        third.tick()
        assert third.leads, "who leaves cleanly lets the next one lead at once"


def test_controller_failure_of_a_version_gives_the_old_one_back(make_registry: Callable[[int], Registry]) -> None:
    registry = make_registry(3)
    registry.start("r1")
    with linked(registry) as connection, Fleet(registry) as fleet:
        one = controller(registry, connection)

        tick_until(one, lambda: registry.state("r1") == "finished")
        fleet.obedient = False
        registry.start("r2", version="2", waves="1,100%")
        tick_until(one, lambda: any(known[-1].generation == 2 for known in fleet.received.values()))
        (victim,) = (device for device, known in fleet.received.items() if known[-1].generation == 2)
        fail(registry, victim, fleet.received[victim][-1])
        tick_until(one, lambda: registry.state("r2") == "stopped")
        tick_until(one, lambda: fleet.received[victim][-1].generation == 3)
        entry = fleet.received[victim][-1].deployments[0]
        assert entry.version == "1"
        assert entry.deployment_id == fleet.received[victim][0].deployments[0].deployment_id
        registry.runs(victim, fleet.received[victim][-1])
        one.tick()
        one.tick()
    with registry.database.read() as database:
        snapshot = Reader(lambda _: None).snapshot(database)
    assert snapshot is not None
    assert [fact.rollout.rollout_id for fact in snapshot.facts] == ["r1"], "nobody is wanted to run what r2 brought"
    states = Counter((row.rollout_id, row.state) for row in registry.rows(tables.deployments))
    assert states == {("r1", "running"): 3, ("r2", "failed"): 1, ("r2", "cancelled"): 2}


def test_controller_attempt_after_a_failure_takes_the_place_of_the_one_before(
    make_registry: Callable[[int], Registry],
) -> None:
    registry = make_registry(1)
    registry.start("r1", max_retries=1, retry_first_s=0.001)
    with linked(registry) as connection, Fleet(registry, obedient=False) as fleet:
        one = controller(registry, connection)
        device = registry.device(0)
        tick_until(one, lambda: bool(fleet.received.get(device)))
        first = fleet.received[device][-1]
        fail(registry, device, first)
        tick_until(one, lambda: fleet.received[device][-1].generation >= first.generation + 2)
        again = fleet.received[device][-1]
        assert again.deployments[0].deployment_id != first.deployments[0].deployment_id
        registry.sequence += 2000  # later than what it said of the first attempt
        registry.runs(device, again)
        tick_until(one, lambda: registry.state("r1") == "finished")
    (row,) = registry.rows(tables.deployments)
    assert (row.deployment_id, row.state, row.attempt, row.retries) == (
        again.deployments[0].deployment_id,
        "running",
        1,
        1,
    )
    assert actions(registry).count("retry") == 1


def test_reader_offers_a_lane_what_the_last_build_ranked_in_its_order(make_registry: Callable[[int], Registry]) -> None:
    """Not by p95: that of a host stands beside that of a device, and a fast one may lose much."""
    registry = make_registry(1)
    registry.start("r1")
    ranks = [("lossy-and-fast", 2, "may lose 0.07 of top1"), ("float32", 1, ""), ("of-an-earlier-build", None, "")]
    with registry.database.write() as database:
        (row,) = [dict(row._mapping) for row in database.execute(sa.select(tables.variants)) if row.version == "1"]
        for name, rank, caveat in ranks:
            changes = {"variant_id": name, "verdict": "fits", "chosen": False}
            document = {"rank": rank, "caveat": caveat, "latency_p95_ms": {"value": 1.0, "origin": "host"}}
            database.execute(sa.insert(tables.variants).values(**{**row, **changes, "document": document}))
    with registry.database.read() as database:
        snapshot = Reader(lambda _: None).snapshot(database)
    assert snapshot is not None
    (fact,) = snapshot.facts
    others = fact.choices["pi"].others
    assert [(one.variant_id, one.caveat) for one in others] == [
        ("float32", ""),
        ("lossy-and-fast", "may lose 0.07 of top1"),
    ]
    assert fact.choices["pi"].variant not in others


def fail(registry: Registry, device: str, desired: Desired) -> None:
    registry.runs(device, desired)
    with registry.database.write() as connection:
        column = tables.device_states.c.status
        condition = tables.device_states.c.device_id == device
        status: Any = connection.execute(sa.select(column).where(condition)).scalar()
        status["deployments"][0] |= {"state": "failed", "reason": "golden_mismatch", "serving": False}
        values = {"status": status, "status_sequence": status["sequence"] + 1000}
        connection.execute(sa.update(tables.device_states).where(condition).values(values))


def test_controller_rollback_command_is_obeyed_once(make_registry: Callable[[int], Registry]) -> None:
    registry = make_registry(2)
    registry.start("r1")
    with linked(registry) as connection, Fleet(registry) as fleet:
        one = controller(registry, connection)
        tick_until(one, lambda: registry.state("r1") == "finished")
        fleet.obedient = False
        registry.command("r1", "rollback")
        tick_until(one, lambda: all(known[-1].generation == 2 for known in fleet.received.values()))
        assert registry.state("r1") == "rolling_back", "no device has done it yet"
        fleet.obedient = True
        for device, known in fleet.received.items():
            registry.runs(device, known[-1])
        tick_until(one, lambda: registry.state("r1") == "rolled_back")
        tick_until(one, lambda: all(known[-1].generation == 2 for known in fleet.received.values()))
        for _ in range(3):
            one.tick()
    assert all(known[-1].deployments == () for known in fleet.received.values())
    assert actions(registry).count("rollback") == 1
    assert {row.generation for row in registry.rows(tables.desired)} == {2}


def test_controller_removed_device_has_its_retained_topics_cleared(make_registry: Callable[[int], Registry]) -> None:
    registry = make_registry(1)
    device = registry.device(0)
    registry.start("r1")
    with linked(registry) as connection, Fleet(registry) as fleet:
        one = controller(registry, connection)
        tick_until(one, lambda: registry.state("r1") == "finished")
        for kind in (DeviceTopic.PRESENCE, DeviceTopic.STATUS):
            assert connection.publish(device_topic(device, kind), b"{}", qos=1, retain=True).wait(5)
        with registry.database.write() as database:
            database.execute(sa.update(tables.devices).values(removed_at=time.time()))
        tick_until(one, lambda: device in fleet.cleared)
        for _ in range(3):
            one.tick()
    seen: list[str] = []
    stop = threading.Event()
    subscription = Subscription(f"shoal/v1/d/{device}/+")
    late = BrokerConnection(
        registry.broker, f"late-{registry.salt}", (subscription,), lambda message: seen.append(message.topic)
    )
    thread = threading.Thread(target=late.run, args=(stop,))
    thread.start()
    assert late.wait_ready(10)
    time.sleep(0.2)
    stop.set()
    late.wake()
    thread.join()
    assert seen == []
    assert {row.state for row in registry.rows(tables.deployments)} == {"cancelled"}
    assert {row.generation for row in registry.rows(tables.desired)} == {2}, "cleared once"


def test_controller_device_that_joins_again_is_not_given_what_its_former_life_ran(
    make_registry: Callable[[int], Registry],
) -> None:
    registry = make_registry(1)
    registry.start("r1")
    with linked(registry) as connection, Fleet(registry):
        one = controller(registry, connection)
        tick_until(one, lambda: registry.state("r1") == "finished")
        # removed and back before the controller looked
        with registry.database.write() as database:
            database.execute(sa.update(tables.devices).values(removed_at=None, joined_at=time.time()))
        one.tick()
        one.tick()
    (row,) = registry.rows(tables.desired)
    assert (row.generation, row.document["deployments"]) == (2, [])
    assert {row.state for row in registry.rows(tables.deployments)} == {"cancelled"}


def test_controller_profile_that_nobody_builds_for_stops_the_rollout_and_says_what_to_do(
    make_registry: Callable[[int], Registry],
) -> None:
    registry = make_registry(1)
    with registry.database.write() as database:
        database.execute(sa.delete(tables.choices))
        job = {"job_id": "j1", "kind": "build", "model": "m", "version": "1", "created_at": 1.0}
        database.execute(sa.insert(tables.jobs).values(**job, dedupe_key="1" * 64, request={"profiles": ["other"]}))
    with linked(registry) as connection:
        registry.start("r1")
        controller(registry, connection).tick()
    assert registry.state("r1") == "stopped"
    assert "edge-registry variant build m@1" in registry.rows(tables.decisions)[-1].sentence


def test_controller_that_only_prolongs_its_lease_reads_no_fleet_under_the_write_lock(
    make_registry: Callable[[int], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, clock = make_registry(1), Clock()
    registry.start("r1")  # its device never answers
    with linked(registry) as connection:
        one = controller(registry, connection, clock=clock)
        tick_until(one, lambda: {row.published_generation for row in registry.rows(tables.desired)} == {1})
        clock.now += 4.0
        read_in_transaction: list[bool] = []
        snapshot = Reader.snapshot

        def watched(self: Reader, connection: sa.Connection) -> Snapshot | None:
            read_in_transaction.append(bool(connection.info.get("immediate")))
            return snapshot(self, connection)

        monkeypatch.setattr(Reader, "snapshot", watched)
        one.tick()
        assert read_in_transaction == [False]
        (lease,) = registry.rows(tables.leases)
        assert lease.until == clock.now + 5.0


def test_controller_tick_with_nothing_open_scans_no_table_of_the_fleet(
    make_registry: Callable[[int], Registry],
) -> None:
    registry, clock = make_registry(3), Clock()
    if not registry.database.is_sqlite:
        pytest.skip("PostgreSQL scans a table of three rows, whatever its indexes")
    registry.start("r1")
    with linked(registry) as connection, Fleet(registry):
        one = controller(registry, connection, clock=clock)
        tick_until(one, lambda: registry.state("r1") == "finished")
        one.tick()  # it sees that nothing is left to do
        asked: list[tuple[str, Any]] = []

        def listen(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            asked.append((statement, parameters))

        sa.event.listen(registry.database.engine, "before_cursor_execute", listen)
        one.tick()
        sa.event.remove(registry.database.engine, "before_cursor_execute", listen)
        selects = [(statement, parameters) for statement, parameters in asked if statement.startswith("SELECT")]
        plans: list[str] = []
        with registry.database.read() as database:
            for statement, parameters in selects:
                told = database.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans += [row.detail for row in told]
        fleet = ("devices", "device_states", "deployments", "desired")
        scans = [plan for plan in plans if plan.startswith(tuple(f"SCAN {table}" for table in fleet))]
        assert plans
        assert [plan for plan in scans if "ix_desired_unpublished" not in plan] == []  # that one is empty
        # what no ingest has numbered as news is found all the same, if later
        (desired,) = (row.document for row in registry.rows(tables.desired) if row.device_id == registry.device(0))
        fail(registry, registry.device(0), Desired.model_validate(desired))
        one.tick()
        assert {row.state for row in registry.rows(tables.deployments)} == {"running"}
        clock.now += 11.0
        one.tick()
        one.tick()
        assert Counter(row.state for row in registry.rows(tables.deployments)) == {"running": 2, "failed": 1}


def test_controller_device_that_fails_late_is_seen_at_the_next_look(make_registry: Callable[[int], Registry]) -> None:
    registry = make_registry(3)
    registry.start("r1")
    clock = Clock()
    ingest = IngestStore(registry.database, registry.database)
    with linked(registry) as connection, Fleet(registry):
        one = controller(registry, connection, clock=clock)
        tick_until(one, lambda: registry.state("r1") == "finished")
        for _ in range(5):
            one.tick()
        victim = registry.device(0)
        (said,) = (row.status for row in registry.rows(tables.device_states) if row.device_id == victim)
        for change in ({}, {"state": "rolled_back", "reason": "crash_loop", "serving": False}):
            said["sequence"] += 1
            said["deployments"][0] |= {"inferences": said["sequence"], **change}
            ingest.commit([StatusNews(victim, Status.model_validate(said), retained=False)], now=clock())
            with registry.database.read() as database:
                quiet = one._quiet.holds(database, now=clock())  # what a tick asks first
            assert quiet is not bool(change), "figures that move are no news; another state is"
        one.tick()
        states = {row.device_id: row.state for row in registry.rows(tables.deployments)}
        assert Counter(states.values()) == {"running": 2, "rolled_back": 1}
        assert states[victim] == "rolled_back", "without waiting for the next look at the whole fleet"


def test_controller_s3_down_verifies_nobody_until_it_is_back(make_registry: Callable[[int], Registry]) -> None:
    registry = make_registry(1)
    registry.start("r1")
    clock = Clock()

    class Flaky:
        """The real store behind a switch."""

        down = True

        def get_bytes(self, sha256: str) -> bytes:
            if self.down:
                raise StorageUnavailableError("S3 does not answer.")
            return registry.store.get_bytes(sha256)

    store: Any = Flaky()
    with linked(registry) as connection, Fleet(registry) as fleet:
        one = controller(registry, connection, store=store, clock=clock)
        tick_until(one, lambda: bool(fleet.received))
        tick_until(one, lambda: registry.rows(tables.deployments)[0].state == "active")
        for _ in range(3):
            one.tick()
        (row,) = registry.rows(tables.deployments)
        assert (row.state, row.detail) == (
            "active",
            "active, but its manifest can't be read now to compare the file with",
        )
        store.down = False
        clock.now += 6
        tick_until(one, lambda: registry.state("r1") == "finished")


def test_controller_new_epoch_gives_every_device_a_newer_desired_state(
    make_registry: Callable[[int], Registry],
) -> None:
    registry = make_registry(2)
    registry.start("r1")
    with linked(registry) as connection, Fleet(registry) as fleet:
        one = controller(registry, connection)
        tick_until(one, lambda: registry.state("r1") == "finished")
        with registry.database.write() as database:
            database.execute(sa.update(tables.registry).values(epoch=8))
        tick_until(one, lambda: all(known[-1].epoch == 8 for known in fleet.received.values()))
        one.tick()
    assert {(row.epoch, row.generation) for row in registry.rows(tables.desired)} == {(8, 2)}


def test_controller_prepares_until_each_profile_has_a_choice_and_stops_when_its_build_failed(
    make_registry: Callable[[int], Registry],
) -> None:
    registry = make_registry(1)
    with registry.database.write() as database:
        database.execute(sa.delete(tables.choices))
    job = {"job_id": "j1", "kind": "build", "model": "m", "version": "1", "created_at": 1.0}
    run = {"job_id": "j1", "worker": "w", "attempt": 1, "lease_until": 0.0, "started_at": 1.0, "progress": {}}
    with linked(registry) as connection:
        one = controller(registry, connection)
        registry.start("r1")
        with registry.database.write() as database:
            database.execute(sa.insert(tables.jobs).values(**job, dedupe_key="1" * 64, request={"profiles": ["pi"]}))
        one.tick()
        one.tick()
        assert registry.state("r1") == "preparing"
        assert registry.rows(tables.desired) == []
        with registry.database.write() as database:
            error = {"code": "build_failed", "message": "The graph holds an operator that LiteRT lacks."}
            database.execute(sa.insert(tables.job_runs).values(**run, state="failed", error=error))
            again = {**job, "job_id": "j2", "created_at": 2.0, "dedupe_key": "2" * 64, "request": {"profiles": []}}
            database.execute(sa.insert(tables.jobs).values(**again))
        one.tick()
        assert registry.state("r1") == "preparing", "another job is on the way"
        with registry.database.write() as database:
            later = {**run, "job_id": "j2", "state": "failed", "error": error}
            database.execute(sa.insert(tables.job_runs).values(**later))
        one.tick()
        assert registry.state("r1") == "stopped"
        assert registry.rows(tables.decisions)[-1].sentence.endswith("lacks.")
        registry.start("r2")
        with registry.database.write() as database:
            refusal = {"limit": "download_bytes", "allowed": 1, "nearest": 2, "sentence": "2 bytes, 1 is allowed."}
            choice = {"model": "m", "version": "1", "profile": "pi", "refusal": refusal, "created_at": 0.0}
            database.execute(sa.insert(tables.choices).values(**choice))
        one.tick()
        assert registry.state("r2") == "finished"
    (row,) = (row for row in registry.rows(tables.deployments) if row.rollout_id == "r2")
    assert (row.state, row.detail) == ("no_variant", "2 bytes, 1 is allowed.")


def test_controller_a_build_that_is_cancelled_stops_the_rollout_that_waits_for_it_and_says_by_whom(
    make_registry: Callable[[int], Registry],
) -> None:
    registry = make_registry(1)
    with registry.database.write() as database:
        database.execute(sa.delete(tables.choices))
        job = {"job_id": "j1", "kind": "build", "model": "m", "version": "1", "created_at": 1.0}
        database.execute(sa.insert(tables.jobs).values(**job, dedupe_key="1" * 64, request={"profiles": ["pi"]}))
        run = {"job_id": "j1", "worker": "w", "attempt": 1, "lease_until": 0.0, "started_at": 1.0, "progress": {}}
        database.execute(sa.insert(tables.job_runs).values(**run, state="running"))
    with linked(registry) as connection:
        one = controller(registry, connection)
        registry.start("r1")
        cancel_job(registry.database, "j1", "anna@desk", now=2.0)
        one.tick()
        assert registry.state("r1") == "preparing", "its worker has not stopped it yet, and might be done first"
        with registry.database.write() as database:
            database.execute(sa.update(tables.job_runs).values(state="cancelled", finished_at=3.0))
        one.tick()
        assert registry.state("r1") == "stopped"
    assert registry.rows(tables.decisions)[-1].sentence.endswith(
        "no variant of m@1 for pi: its build was cancelled by anna@desk while it was being done; ask for the build "
        "again to have it."
    )


def test_controller_broker_killed_rings_for_what_is_unpublished_once_it_is_back(
    make_registry: Callable[[int], Registry], own_broker: tuple[str, Child]
) -> None:
    registry = make_registry(3)
    registry.broker, child = own_broker
    with linked(registry) as connection:
        one = controller(registry, connection)
        one.tick()
        identity = child.identity
        assert identity is not None
        os.kill(identity.pid, signal.SIGKILL)
        wait_for(lambda: not connection.is_ready)
        registry.start("r1")
        for _ in range(3):
            one.tick()
        assert {row.published_generation for row in registry.rows(tables.desired)} == {-1}
        child.poll()
        child.start()
        wait_for(lambda: connection.is_ready)
        with Fleet(registry) as fleet:
            tick_until(one, lambda: registry.state("r1") == "finished")
            tick_until(one, lambda: {row.published_generation for row in registry.rows(tables.desired)} == {1})
        assert all(known[-1].generation == 1 for known in fleet.received.values())


def test_controller_unreadable_rollout_holds_up_no_other(make_registry: Callable[[int], Registry]) -> None:
    registry = make_registry(1)
    registry.start("bad", max_failures=-3)
    registry.start("good")
    with linked(registry) as connection, Fleet(registry):
        one = controller(registry, connection)
        tick_until(one, lambda: registry.state("good") == "finished")
    assert registry.state("bad") == ""


def test_run_fleet_of_many_batches_is_told_without_waiting_for_ticks(
    make_registry: Callable[[int], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.rollouts.doorbell.BATCH", 2)
    registry = make_registry(24)
    registry.start("r1")
    stop = threading.Event()
    with linked(registry) as connection, Fleet(registry, obedient=False) as fleet:
        one = controller(registry, connection, pace=Pace(interval_s=5.0))  # 12 batches: a minute, one in each tick
        thread = threading.Thread(target=one.run, args=(stop,))
        thread.start()
        try:
            wait_for(lambda: len(fleet.received) == 24)
            wait_for(lambda: {row.published_generation for row in registry.rows(tables.desired)} == {1})
        finally:
            stop.set()
            thread.join()
    assert all(len(known) == 1 for known in fleet.received.values()), "nobody is told twice"
