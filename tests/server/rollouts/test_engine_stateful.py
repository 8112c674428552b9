"""Any order of reports, silence, commands and controllers that die between two decisions keeps the promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts import gate
from server.rollouts.facts import ChoiceFact
from server.rollouts.ledger import WITHDRAWN
from server.rollouts.reading import OPEN_STATES
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

REPORTED = [
    (DeploymentState.DOWNLOADING, Reason.NONE),
    (DeploymentState.SELF_TESTING, Reason.NONE),
    (DeploymentState.FAILED, Reason.TRANSFER_FAILED),
    (DeploymentState.FAILED, Reason.RUNNER_CRASHED),
    (DeploymentState.REJECTED, Reason.LATENCY_LIMIT),
    (DeploymentState.ROLLED_BACK, Reason.CRASH_LOOP),
]


SETTLED = {
    *("running", "no_variant", "timed_out", "cancelled"),
    *("failed", "rejected", "rolled_back", "superseded"),
}


def test_advance_any_story_keeps_the_promises(  # noqa: C901  a story machine made for its fixture
    make_paper: Callable[..., Paper],
) -> None:
    class Story(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.paper = make_paper({f"d{i}": "pi" if i % 3 else "zero" for i in range(9)})
            self.best_wave: dict[str, int] = {}
            self.generations: dict[str, int] = {}

        @initialize(waves=st.sampled_from(["100%", "1,100%", "20%,50%,100%"]), failures=st.integers(0, 2))
        def first(self, waves: str, failures: int) -> None:
            self.paper.start(
                "r1",
                waves=waves,
                unproven=True,
                max_failures=failures,
                silence_deadline_s=30,
                progress_deadline_s=45,
            )
            self.paper.choices["1"]["zero"] = ChoiceFact(variant=self.paper.choices["1"]["zero"].variant)

        @precondition(lambda self: len(self.paper.rollouts) < 3)
        @rule(waves=st.sampled_from(["100%", "3,100%"]), unproven=st.booleans(), model=st.sampled_from("mmn"))
        def another(self, waves: str, unproven: bool, model: str) -> None:  # noqa: FBT001  drawn by hypothesis
            number = str(len(self.paper.rollouts) + 1)
            self.paper.start(f"r{number}", version=number, model=model, waves=waves, unproven=unproven)

        @rule(seconds=st.sampled_from([0.5, 10.0, 31.0]))
        def tick(self, seconds: float) -> None:
            self.paper.tick(seconds)

        @rule(device=st.integers(0, 8), what=st.sampled_from(REPORTED), model=st.sampled_from("mmn"))
        def trouble(self, device: int, what: tuple[DeploymentState, Reason], model: str) -> None:
            if self.paper.wanted(f"d{device}", model):
                self.paper.report(f"d{device}", what[0], reason=what[1], model=model)

        @rule(first=st.integers(0, 8), count=st.integers(1, 9), model=st.sampled_from("mmn"))
        def success(self, first: int, count: int, model: str) -> None:
            for device in range(first, min(9, first + count)):
                if self.paper.wanted(f"d{device}", model):
                    self.paper.report(f"d{device}", model=model)

        @rule(device=st.integers(0, 8))
        def alive(self, device: int) -> None:
            self.paper.seen(f"d{device}")

        @rule(device=st.integers(0, 8))
        def remove(self, device: int) -> None:
            if len(self.paper.removed) < 2:
                self.paper.removed.add(f"d{device}")

        @rule(action=st.sampled_from(["pause", "resume", "resume", "abort", "rollback"]), which=st.integers(1, 3))
        def command(self, action: str, which: int) -> None:
            if f"r{which}" in self.paper.rollouts:
                self.paper.say(f"r{which}", action)

        @invariant()
        def waves_only_grow_and_no_wave_opens_early(self) -> None:
            for name, standing in self.paper.ledger.standings.items():
                assert standing.wave >= self.best_wave.get(name, -1)
                if standing.wave > max(0, self.best_wave.get(name, -1)):
                    before = [row for row in self.paper.ledger.rows_of(name) if row.wave == standing.wave - 1]
                    assert {row.state for row in before} <= SETTLED
                self.best_wave[name] = standing.wave
                for row in self.paper.ledger.rows_of(name):
                    assert row.opened_at is None or row.wave <= standing.wave

        @invariant()
        def wanted_names_one_deployment_of_this_device_and_model(self) -> None:
            for device, models in self.paper.ledger.wanted.items():
                for model, entry in models.items():
                    row = self.paper.ledger.deployments[entry.deployment_id]
                    assert (row.device_id, row.model, row.version) == (device, model, entry.version)
                    assert row.state not in {"waiting", "no_variant", "cancelled", "superseded"}
                    standing = self.paper.ledger.standings[row.rollout_id]
                    assert standing.state not in WITHDRAWN

        @invariant()
        def thresholds_hold_wherever_a_rollout_goes_on(self) -> None:
            for name, standing in self.paper.ledger.standings.items():
                if standing.state is not RolloutState.RUNNING:
                    continue
                allowed = self.paper.rollouts[name].options.max_failures
                rows = self.paper.ledger.rows_of(name)
                stops = gate.stopped_lanes(rows, max_failures=allowed)
                going_on = [row for row in rows if gate.lane_of(row) not in stops]
                for wave in range(standing.wave):
                    assert gate.count_wave(row for row in going_on if row.wave == wave).failed <= allowed
                for row in rows:
                    if gate.lane_of(row) in stops:
                        assert gate.bucket(row) != "in_progress" or row.running_at is not None

        @invariant()
        def generations_only_grow(self) -> None:
            for device, generation in self.paper.ledger.generations.items():
                assert generation >= self.generations.get(device, 0)
                self.generations[device] = generation

        def teardown(self) -> None:
            """Whatever happened: devices that do as they are told bring every open rollout to its end."""
            for name in self.paper.rollouts:
                self.paper.say(name, "resume")
            for _ in range(12):
                for device, models in self.paper.ledger.wanted.items():
                    self.paper.takes_up(device)
                    for model in models:
                        self.paper.report(device, model=model)
                self.paper.tick(1)
            open_states = set(OPEN_STATES)
            assert not [s for s in self.paper.ledger.standings.values() if s.state in open_states]
            self.paper.tick(1)
            assert not self.paper.ledger.changed

    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
