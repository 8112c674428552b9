"""A device with a shadow: the real supervisor, the real runner and the real interpreter, under load."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.shadow import ShadowOutcome, ShadowPlan
from edge_agent.protocol.states import Reason
from tests.edge_agent.supervisor.test_agent_with_real_runner import Load, packed
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.protocol.messages import DeploymentStatus
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

PLAN = ShadowPlan(deadline_s=600, samples=50, cpu_share=1.0, scores=True)


class Story:
    """A device on which version 1 answers under load, and what is asked of it next."""

    def __init__(
        self,
        device: Device,
        registry: MqttRegistry,
        workshop: Workshop,
        manifest_of: Callable[..., VariantManifest],
    ) -> None:
        self.device, self.registry, self.workshop, self._manifest_of = device, registry, workshop, manifest_of
        registry.want(1, {"d1": self.version("1")})
        device.start()
        registry.expect_serving("d1", timeout_s=40)

    def version(self, number: str, *, other_network: bool = False) -> ToyVariant:
        if other_network:  # another network altogether, with golden samples of its own
            workshop = self.workshop.with_network(seed=2)
            return packed(workshop, self._manifest_of, workshop.float_file(), version=number)
        return packed(self.workshop, self._manifest_of, self.workshop.float_file(), version=number)

    def load(self) -> Load:
        return Load(self.device.port, self.workshop)

    def expect_samples(self, deployment_id: str, at_least: int = 1) -> None:
        def compared() -> bool:
            status = self.registry.state_of(deployment_id)
            return status is not None and status.shadow is not None and status.shadow.samples >= at_least

        until(compared, timeout_s=20, what=f"{at_least} samples compared by {deployment_id}")


@pytest.fixture
def story(
    device: Device,
    registry: MqttRegistry,
    workshop: Workshop,
    manifest_of: Callable[..., VariantManifest],
) -> Story:
    device.flags = ["--set", "runner_command=", "--set", "front_command="]
    return Story(device, registry, workshop, manifest_of)


def outcome_of(status: DeploymentStatus) -> ShadowOutcome:
    assert status.shadow is not None
    return status.shadow.outcome


def test_agent_whose_shadow_disagrees_stops_it_before_it_has_answered_anyone(story: Story) -> None:
    with story.load() as load:
        story.registry.want(2, {"d2": story.version("2", other_network=True)}, shadow=PLAN)
        rejected = story.registry.expect_state("d2", "rejected", timeout_s=40)

    assert rejected.reason is Reason.SHADOW_DISAGREES
    assert "samples agree with the active version" in rejected.detail
    assert outcome_of(rejected) is ShadowOutcome.DISAGREED
    assert rejected.inferences == 0
    assert "shadowing" in story.registry.history_of("d2")
    assert load.failures == []
    assert story.registry.serving("d1")
    until(lambda: set(story.device.status()["pids"]) == {"d1"}, what="the end of the shadow")


def test_agent_whose_shadow_agrees_lets_it_answer_without_losing_a_request(story: Story) -> None:
    with story.load() as load:
        story.registry.want(2, {"d2": story.version("2")}, shadow=PLAN)
        serving = story.registry.expect_serving("d2", timeout_s=40)
        answered = load.answered
        until(lambda: load.answered > answered + 20, what="answers of the new version")

    assert outcome_of(serving) is ShadowOutcome.AGREED
    assert serving.shadow is not None
    assert (serving.shadow.samples, serving.shadow.agreed) == (50, 50)
    assert min(serving.shadow.p50_ms, serving.shadow.active_p50_ms) > 0
    assert load.failures == []
    assert not list(story.device.layout.run_dir.glob("_shadow.*")), "its socket is gone"


def test_agent_without_requests_tells_the_silence_and_activates_at_the_deadline(story: Story) -> None:
    story.registry.want(2, {"d2": story.version("2")}, shadow=PLAN.model_copy(update={"deadline_s": 1.0}))
    serving = story.registry.expect_serving("d2", timeout_s=40)
    assert outcome_of(serving) is ShadowOutcome.INCONCLUSIVE
    assert serving.shadow is not None
    assert "no request came" in serving.shadow.detail


def test_agent_killed_in_a_shadow_serves_the_active_one_and_repeats_the_shadow(story: Story) -> None:
    slow = PLAN.model_copy(update={"samples": 10_000, "cpu_share": 0.05})
    story.registry.want(2, {"d2": story.version("2")}, shadow=slow)
    story.registry.expect_state("d2", "shadowing", timeout_s=40)
    with story.load():
        story.expect_samples("d2")

    story.device.kill()
    story.registry.statuses.clear()
    story.device.start()

    story.registry.expect_serving("d1", timeout_s=40)
    story.registry.expect_state("d2", "shadowing", timeout_s=40)
    with story.load() as load:
        story.expect_samples("d2")
    assert load.failures == []
    assert story.registry.serving("d1")


def test_agent_whose_active_runner_is_killed_feeds_the_shadow_from_the_next_one(story: Story) -> None:
    slow = PLAN.model_copy(update={"samples": 10_000, "cpu_share": 0.05})
    story.registry.want(2, {"d2": story.version("2")}, shadow=slow)
    story.registry.expect_state("d2", "shadowing", timeout_s=40)
    pid = story.device.status()["pids"]["d1"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: story.device.status()["pids"].get("d1", pid) != pid, what="the next runner")
    story.registry.expect_serving("d1", timeout_s=40)
    with story.load():
        story.expect_samples("d2")


def test_agent_told_of_another_version_ends_the_shadow_within_two_seconds(story: Story) -> None:
    story.registry.want(2, {"d2": story.version("2")}, shadow=PLAN)
    story.registry.expect_state("d2", "shadowing", timeout_s=40)

    (copies,) = story.device.layout.run_dir.glob("_shadow.*")
    assert copies.stat().st_mode & 0o777 == 0o600, "only the agent's own processes may give it requests"
    story.registry.want(3, {"d1": story.version("1")})

    story.registry.expect_state("d2", "superseded", timeout_s=2)
    until(lambda: set(story.device.status()["pids"]) == {"d1"}, timeout_s=2, what="the end of the shadow")
    assert story.registry.serving("d1")


def test_agent_without_room_for_a_shadow_says_so_and_swaps(story: Story) -> None:
    story.device.stop()
    story.device.flags += ["--memory-budget", "90M"]  # one runner fits, two do not
    story.device.start()
    story.registry.want(2, {"d2": story.version("2")}, shadow=PLAN)
    serving = story.registry.expect_serving("d2", timeout_s=40)
    assert outcome_of(serving) is ShadowOutcome.SKIPPED
    assert serving.shadow is not None
    assert serving.shadow.detail.startswith("shadow skipped: RAM")
