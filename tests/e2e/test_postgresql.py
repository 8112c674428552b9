"""The whole road on a PostgreSQL that somebody else runs, and that dies in the middle of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.probe.read import probe
from edge_agent.protocol.profile import RuntimeName
from server.stack.objects import embedded_keys
from tests.e2e.conftest import FORM
from tests.e2e.load import SteadyLoad
from tests.postgresql import PostgresServer
from tests.processes import RunningRegistry, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet


@pytest.fixture
def postgresql() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def registry(folder: Path, postgresql: PostgresServer) -> Iterator[RunningRegistry]:
    """An empty one, with both databases on PostgreSQL."""
    urls = {name: postgresql.make_database() for name in ("SHOAL_DATABASE_URL", "SHOAL_TELEMETRY_URL")}
    running = RunningRegistry(folder / "registry", environment=urls)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def _fill(registry: RunningRegistry, tiny_model: TinyModel) -> None:
    """A profile of this machine, and two versions with a variant for it."""
    host = probe(data_dir=registry.data_dir, runtimes=(RuntimeName.LITERT,), name="bench")
    with registry.client() as client:
        client.add_profile(host.model_copy(update={"threads": 1, "npu": None}))
        for version in ("1", "2"):
            pushed = client.push_model(
                tiny_model.archive(version), name="tiny", version=version, data=tiny_model.data, form=FORM
            )
            client.wait_for_job(pushed.job_id, timeout_s=60)
            for job in client.build_variants("tiny", version, recipes=("float32",)):
                client.wait_for_job(job.job_id, timeout_s=90)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_database_killed_during_a_rollout_costs_neither_a_request_nor_a_count(
    registry: RunningRegistry, fleet: Fleet, postgresql: PostgresServer, tiny_model: TinyModel
) -> None:
    _fill(registry, tiny_model)
    agent = fleet.join("till-1")
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1"))
    with SteadyLoad(agent, "tiny", tiny_model.rows) as load:
        wait_until(lambda: load.total > 20, "it answers")
        rollout_id = fleet.roll_out("2")
        postgresql.kill()
        wait_until(lambda: load.total > 200, "it serves without the registry's database")
        postgresql.start()
        fleet.wait_for(rollout_id)
        wait_until(lambda: load.answered["2"] > 20, "it answers with version 2")
    assert load.failures == []
    fleet.wait_counted({agent.device_id: load.total})
    assert not (registry.data_dir / "registry.db").exists()


@pytest.fixture
def second(registry: RunningRegistry, folder: Path) -> Iterator[RunningRegistry]:
    """The same registry on another machine: its own data folder, and the addresses of everything else."""
    keys = embedded_keys(registry.data_dir)
    (folder / "second").mkdir()
    addresses = {
        "SHOAL_MQTT_URL": registry.state.mqtt_url,
        "SHOAL_S3_ENDPOINT": registry.state.s3_endpoint,
        "SHOAL_S3_ACCESS_KEY": keys.access_key,
        "SHOAL_S3_SECRET_KEY": keys.secret_key,
    }
    running = RunningRegistry(folder / "second" / "registry", environment={**registry.environment, **addresses})
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_second_machine_shares_the_work_and_may_die(
    registry: RunningRegistry, second: RunningRegistry, fleet: Fleet, tiny_model: TinyModel
) -> None:
    _fill(second, tiny_model)
    agent = fleet.join("till-1")
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1"))
    with SteadyLoad(agent, "tiny", tiny_model.rows) as load:
        wait_until(lambda: load.total > 100, "it answers")
        rollout_id = fleet.roll_out("2")
        second.kill_up()
        fleet.wait_for(rollout_id)
        wait_until(lambda: load.answered["2"] > 20, "it answers with version 2")
    assert load.failures == []
    fleet.wait_counted({agent.device_id: load.total})
    for one in (registry, second):  # of two with one name each would throw the other out
        assert "connection lost" not in (one.data_dir / "logs" / "ingest.log").read_text()


@pytest.mark.slow
def test_registry_without_its_database_says_so_and_does_not_start(folder: Path, postgresql: PostgresServer) -> None:
    url = postgresql.make_database()
    postgresql.kill()
    environment = {"SHOAL_DATABASE_URL": url.replace("shoal@", "shoal:a-secret@"), "SHOAL_TELEMETRY_URL": url}
    running = RunningRegistry(folder / "registry", environment=environment)
    with pytest.raises(
        pytest.fail.Exception, match=r"The registry's database can't be written: .* Is the server running"
    ):
        running.start()
    said = running.log_path.read_text()
    assert "a-secret" not in said
    assert "Traceback" not in said
