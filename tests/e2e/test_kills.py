"""`kill -9` of each part in the middle of a rollout, under load: the wanted state is reached, every answer counts once.

A broker that is killed forgets what it acknowledged; a device sends its reports again until the registry has said that
they are committed. A runner or a supervisor that is killed may take the requests with it that it was answering: those
the client has seen fail, and they may be counted or not. No other may be missing.
"""

from __future__ import annotations

import os
import shutil
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.e2e.fleet import Fleet
from tests.e2e.load import SteadyLoad
from tests.processes import RunningRegistry, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.conftest import TinyModel
    from tests.processes import RunningAgent


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[RunningRegistry]:
    """One registry for all kills: each must leave it whole. Every test has devices of its own."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copytree(prepared, folder / "registry", ignore=shutil.ignore_patterns("*.sock"))
    running = RunningRegistry(folder / "registry")
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def fleet(shared: RunningRegistry, folder: Path) -> Iterator[Fleet]:
    """No devices yet, of a registry that may know others."""
    running = Fleet(shared, folder)
    yield running
    running.stop_agents()


@pytest.mark.parametrize("part", ["mosquitto", "controller", "seaweedfs", "api", "delivery", "ingest"])
def test_registry_part_killed_during_a_rollout_costs_neither_a_request_nor_a_count(
    fleet: Fleet, tiny_model: TinyModel, part: str
) -> None:
    flags = {f"{part}-1": (), f"{part}-2": ("--transport", "https")}
    agents = [fleet.join(name, flags=flags[name], labels=(f"test={part}",)) for name in flags]
    roll_out = partial(fleet.roll_out, to=f"test={part}")
    fleet.wait_online(*agents)
    fleet.wait_for(roll_out("1"))
    with SteadyLoad(agents[0], "tiny", tiny_model.rows) as one, SteadyLoad(agents[1], "tiny", tiny_model.rows) as two:
        wait_until(lambda: one.total > 20 and two.total > 20, "both answer")
        rollout_id = roll_out("2", waves="50%,100%")
        wait_until(lambda: fleet.rollout(rollout_id).wave == 0, "the first wave is open")
        old_pid = fleet.registry.state.processes[part].pid
        fleet.registry.kill(part)
        fleet.registry.wait_for_restart(part, old_pid)
        rollout = fleet.wait_for(rollout_id)
        wait_until(lambda: one.answered["2"] > 20 and two.answered["2"] > 20, "both answer with version 2")
    assert sum(wave.running for wave in rollout.waves) == 2
    assert (one.failures, two.failures) == ([], [])
    fleet.wait_counted({agents[0].device_id: one.total, agents[1].device_id: two.total})


def kill_supervisor(agent: RunningAgent) -> None:
    agent.kill()
    agent.start()


def kill_runner(agent: RunningAgent) -> None:
    pids = agent.runner_pids()
    assert pids
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_supervisor, kill_runner])
def test_device_process_killed_during_a_rollout_costs_only_requests_that_the_client_saw_fail(
    fleet: Fleet, tiny_model: TinyModel, kill: Callable[[RunningAgent], None]
) -> None:
    name = kill.__name__.replace("_", "-")
    agent = fleet.join(name, labels=(f"test={name}",))
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1", to=f"test={name}"))
    with SteadyLoad(agent, "tiny", tiny_model.rows) as load:
        wait_until(lambda: load.total > 50, "it answers")
        rollout_id = fleet.roll_out("2", to=f"test={name}")
        wait_until(lambda: fleet.rollout(rollout_id).wave == 0, "the wave is open")
        kill(agent)
        fleet.wait_for(rollout_id)
        wait_until(lambda: load.answered["2"] > 20, "it answers with version 2")
    counted = fleet.settled_count(agent.device_id)
    assert load.total <= counted <= load.total + len(load.failures)
