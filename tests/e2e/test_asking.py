"""A device that rejects the only variant there is, and ends with one that the compressor has found for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.probe.read import probe
from edge_agent.protocol.profile import Limits, RuntimeName
from server.schemas.common import Origin, Verdict
from server.schemas.rollouts import RolloutState
from tests.e2e.conftest import FORM
from tests.e2e.wide import widen
from tests.postgresql import PostgresServer
from tests.processes import RunningRegistry, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from server.client import RegistryClient
    from server.schemas.catalogue import Job
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet

BOARD = "board"
BUDGET = "60s"
OF_FLOAT = 0.6  # of the float file's median may the p95 be: far from it, and from what int8 takes
R2_LEAST = 0.9  # between what the float network answers and what runs in the end


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, folder: Path) -> Iterator[RunningRegistry]:
    """An empty one, on each kind of database."""
    server = PostgresServer() if request.param == "postgresql" else None
    running = RunningRegistry(folder / "registry")
    try:
        if server is not None:
            server.start()
            names = ("SHOAL_DATABASE_URL", "SHOAL_TELEMETRY_URL")
            running.environment = {name: server.make_database() for name in names}
        running.start()
        yield running
    finally:
        running.stop()
        if server is not None:
            server.close()


def _fill(registry: RunningRegistry, tiny: TinyModel, wide: Path) -> float:
    """Two versions with their float files; the limit of the board, which the second can't meet in float, in ms."""
    host = probe(data_dir=registry.data_dir, runtimes=(RuntimeName.LITERT,), name="bench")
    host = host.model_copy(update={"threads": 1, "npu": None})
    with registry.client() as client:
        client.add_profile(host)
        for version, archive in (("1", tiny.archive("1")), ("2", wide)):
            pushed = client.push_model(archive, name="tiny", version=version, data=tiny.data, form=FORM)
            client.wait_for_job(pushed.job_id, timeout_s=400)
            _build(client, version, "bench")
        (chosen,) = [one for one in client.list_variants("tiny", "2") if one.chosen]
        assert chosen.latency_p50_ms is not None
        limit_ms = OF_FLOAT * chosen.latency_p50_ms.value
        # as if of another kind: what this machine measures proves nothing of it, only what its device says does
        board = {"name": BOARD, "cpu": host.cpu.model_copy(update={"model": "board of a test"})}
        client.add_profile(host.model_copy(update={**board, "limits": Limits(latency_p95_ms=limit_ms)}))
        for version in ("1", "2"):
            _build(client, version, BOARD)
    return limit_ms


def _build(client: RegistryClient, version: str, profile: str) -> None:
    for job in client.build_variants("tiny", version, profiles=(profile,), recipes=("float32",)):
        client.wait_for_job(job.job_id, timeout_s=400)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_device_that_rejects_what_there_is_ends_with_what_was_searched_for_it(
    registry: RunningRegistry, fleet: Fleet, tiny_model: TinyModel
) -> None:
    wide = fleet.folder / "wide.pt2"
    widen(tiny_model, wide)
    limit_ms = _fill(registry, tiny_model, wide)
    agent = fleet.join("board-1", profile=BOARD)
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1"), timeout_s=300)

    started = registry.cli("rollout", "start", "tiny@2", "--ask-compressor", BUDGET, "--json")
    assert started.returncode == 0, started.stderr
    rollout_id = json.loads(started.stdout)["rollout_id"]
    wait_until(
        lambda: "waits for the compressor (job " in registry.cli("rollout", "status", rollout_id).stdout,
        "its lane has asked",
        timeout_s=300,
    )
    assert agent.serves("tiny", "1"), "meanwhile it serves what it ran before"
    rollout = fleet.wait_for(rollout_id, timeout_s=1200)

    (deployment,) = rollout.deployments
    assert deployment.state == "running"
    assert deployment.variant_id is not None
    assert not deployment.variant_id.startswith("float32-")
    (lane,) = rollout.lanes
    assert [one.outcome for one in lane.asks][-1] == "found"
    wait_until(lambda: agent.serves("tiny", "2"), "it serves version 2")
    explained = registry.cli("rollout", "explain", rollout_id).stdout
    assert "no variant is left to try, so the compressor is asked for one (job " in explained
    assert " has found " in explained
    assert rollout.state is RolloutState.FINISHED
    with registry.client() as client:
        jobs = [job for job in client.list_jobs() if job.kind == "search"]
        built = {one.variant_id: one for one in client.list_variants("tiny", "2") if one.profile == BOARD}
    assert [job.job_id for job in reversed(jobs)] == [one.job_id for one in lane.asks]
    found, rejected = (built[name].latency_p95_ms for name in (deployment.variant_id, lane.asks[0].variant_id))
    assert found is not None
    assert rejected is not None
    assert rejected.origin is Origin.DEVICE, "what its device had measured has aimed the search"
    assert found.value < limit_ms < rejected.value
    assert built[lane.asks[0].variant_id].verdict is Verdict.MISSES
    expected = tiny_model.expected("1").ravel()
    answered = np.asarray(agent.infer("tiny", tiny_model.rows)["outputs"][0]["data"], np.float32)
    assert 1 - np.mean((answered - expected) ** 2) / np.var(expected) > R2_LEAST


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_operator_cancels_the_search_that_a_worker_does_for_a_lane_and_the_rollout_says_so(
    registry: RunningRegistry, fleet: Fleet, tiny_model: TinyModel
) -> None:
    wide = fleet.folder / "wide.pt2"
    widen(tiny_model, wide)
    _fill(registry, tiny_model, wide)
    agent = fleet.join("board-1", profile=BOARD)
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1"), timeout_s=300)
    started = registry.cli("rollout", "start", "tiny@2", "--ask-compressor", "10m", "--json")
    rollout_id = json.loads(started.stdout)["rollout_id"]

    def search() -> Job | None:
        with registry.client() as client:
            return next((job for job in client.list_jobs() if job.kind == "search"), None)

    wait_until(lambda: (job := search()) is not None and job.state == "running", "a worker does it", timeout_s=300)
    asked = search()
    assert asked is not None
    cancelled = registry.cli("job", "cancel", asked.job_id)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "cancelled by" in cancelled.stdout
    with registry.client() as client:
        wait_until(lambda: client.get_rollout(rollout_id).state == "stopped", "its rollout stops", timeout_s=10)
        (lane,) = client.get_rollout(rollout_id).lanes
    assert [one.outcome for one in lane.asks] == ["failed"]
    status = registry.cli("rollout", "status", rollout_id).stdout
    assert f"job {asked.job_id} has ended without a variant: This job was cancelled by" in status
    assert "waits for the compressor" not in status.split("device", 1)[0]
    assert agent.serves("tiny", "1")
