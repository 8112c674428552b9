"""Download now, activate later: nothing is answered otherwise until the word, and then nothing is fetched any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.load import SteadyLoad
from tests.processes import wait_until

if TYPE_CHECKING:
    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet
    from tests.processes import RunningAgent


def ready(fleet: Fleet, rollout: str) -> int:
    """How many devices hold it ready."""
    return sum(wave.staged for wave in fleet.rollout(rollout).waves)


def received(agent: RunningAgent, version: str) -> int:
    """Bytes of a version that the agent has counted."""
    told = (one for one in agent.status()["deployments"] if one["version"] == version)
    return int(next(told)["bytes_received"])


def test_devices_hold_a_version_ready_over_kills_and_swap_it_at_the_word_without_a_download_or_a_failed_request(
    fleet: Fleet, tiny_model: TinyModel
) -> None:
    till, kiosk = fleet.join("till"), fleet.join("kiosk")
    fleet.wait_online(till, kiosk)
    fleet.wait_for(fleet.roll_out("1"))
    with SteadyLoad(kiosk, "tiny", tiny_model.rows) as load:
        rollout = fleet.roll_out("2", stage=True)
        wait_until(lambda: ready(fleet, rollout) == 2, "both hold version 2 ready")
        told = fleet.rollout(rollout)
        assert told.state == "staging"
        assert told.reason.startswith("Staging: 2 of 2 devices hold it ready; it answers nobody until")
        assert {(one.state, one.reason) for one in told.deployments} == {("staged", "held")}
        fetched = {agent.device_id: received(agent, "2") for agent in (till, kiosk)}

        till.kill()
        till.start()
        fleet.registry.kill("controller")
        wait_until(lambda: till.serves("tiny", "1"), "the killed device answers with version 1")
        assert set(load.answered) == {"1"}, "nothing was answered by what lies ready"

        activated = fleet.registry.cli("rollout", "activate", rollout)
        assert activated.returncode == 0, activated.stderr
        fleet.wait_for(rollout)
        wait_until(lambda: load.answered["2"] > 20, "answers of version 2")
    assert load.failures == []
    assert {agent.device_id: received(agent, "2") for agent in (till, kiosk)} == fetched
    again = fleet.registry.cli("rollout", "activate", rollout)
    assert (again.returncode, "is finished, so it can't activate" in again.stderr) == (1, True), again.stderr


def test_staged_rollout_that_is_aborted_frees_the_device_and_changes_nothing_there(fleet: Fleet) -> None:
    till = fleet.join("till")
    fleet.wait_online(till)
    fleet.wait_for(fleet.roll_out("1"))
    rollout = fleet.roll_out("2", stage=True)
    wait_until(lambda: ready(fleet, rollout) == 1, "it holds version 2 ready")
    variants = till.data_dir / "variants"
    assert len(list(variants.iterdir())) == 2

    with fleet.registry.client() as client:
        client.command_rollout(rollout, "abort")
    fleet.wait_for(rollout, "aborted")

    wait_until(lambda: len(list(variants.iterdir())) == 1, "the files of version 2 are gone")
    assert till.serves("tiny", "1")
