"""Any order of reports, silence, commands and controllers that die between two decisions keeps the promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
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
from server.rollouts import gate, offering
from server.rollouts.facts import RUNNING, AskedJob, ChoiceFact
from server.rollouts.health import Measured, Sample
from server.rollouts.ledger import WITHDRAWN
from server.rollouts.reading import OPEN_STATES
from server.schemas.rollouts import RolloutState
from server.windows import is_open, parse_window, zone_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.rollouts.facts import Deployment
    from tests.server.rollouts.conftest import Paper

REPORTED = [
    (DeploymentState.DOWNLOADING, Reason.NONE),
    (DeploymentState.SELF_TESTING, Reason.NONE),
    (DeploymentState.FAILED, Reason.TRANSFER_FAILED),
    (DeploymentState.FAILED, Reason.RUNNER_CRASHED),
    (DeploymentState.REJECTED, Reason.LATENCY_LIMIT),
    (DeploymentState.ROLLED_BACK, Reason.CRASH_LOOP),
]


SCHEDULES: list[dict[str, Any]] = [
    {},
    {"pace_per_minute": 2, "pace_growth": 2.0},
    {"max_in_progress": 2, "retry_patience_s": 100},
    {"soak_s": 20.0},
    {"window": "00:10-01:40", "time_zone": "Europe/Berlin"},
    {"approve_waves": (1,)},
    {"priority": 1},
    {"priority": -1, "soak_s": 5.0},
    {"max_retries": 2, "max_in_progress": 3},
    {"max_retries": 1, "window": "00:10-01:40", "pace_per_minute": 3, "max_in_progress": 4, "soak_s": 5.0},
    {"join_later": True},
    {"join_later": True, "max_retries": 1, "approve_waves": (1,), "max_in_progress": 3},
    {"gate_deadline_s": 60.0, "quorum": 0.5},
    {"gate_deadline_s": 60.0, "join_later": True, "pace_per_minute": 2},
    {"stage": True},
    {"stage": True, "join_later": True, "max_retries": 1, "max_in_progress": 3, "pace_per_minute": 3},
    {"stage": True, "activate_at": 4000.0, "window": "00:10-01:40", "approve_waves": (1,)},
    {"stage": True, "ask_compressor_s": 60.0, "ask_deadline_s": 400.0, "gate_deadline_s": 60.0},
    {"ask_compressor_s": 60.0, "ask_deadline_s": 400.0},
    {"ask_compressor_s": 60.0, "ask_times": 1, "join_later": True, "max_retries": 1, "gate_deadline_s": 60.0},
]
GOOD = Sample(attempts=200, failures=1, p95_ms=10.0)
SAMPLES = [GOOD, Sample(attempts=200, failures=200, p95_ms=None), Sample(attempts=200, failures=1, p95_ms=30.0)]
MOST_DEVICES = 12
WORDS = ["pause", "resume", "resume", "abort", "rollback", "retry", "approve", "approve", "activate", "activate"]
LANE_WORDS = ["pause", "resume", "abort", "rollback", "retry"]

SETTLED = {
    *("running", "no_variant", "timed_out", "cancelled"),
    *("failed", "rejected", "rolled_back", "superseded"),
}


def went_back_to(row: Deployment) -> bool:
    """Whether its device ran it before: going back to the last good version waits for no window, wave or gate."""
    return row.running_at is not None


def _is_to_run(paper: Paper, row: Deployment) -> bool:
    entry = paper.wanted(row.device_id, row.model)
    return entry is not None and entry.deployment_id == row.deployment_id


LEAST_STEPS = {100: 1_000, 400: 10_000}


# of 40 steps at most each
@pytest.mark.parametrize("examples", [100, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_advance_any_story_keeps_the_promises(  # noqa: C901  a story machine made for its fixture
    make_paper: Callable[..., Paper], examples: int
) -> None:
    steps = itertools.count()

    class Story(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.paper = make_paper({f"d{i}": "pi" if i % 3 else "zero" for i in range(9)})
            self.best_wave: dict[str, int] = {}
            self.generations: dict[str, int] = {}
            self.planned: dict[str, frozenset[str]] = {}
            self.stopped: dict[tuple[str, str, str], float] = {}

        @initialize(
            waves=st.sampled_from(["100%", "1,100%", "20%,50%,100%"]),
            failures=st.integers(0, 2),
            schedule=st.sampled_from(SCHEDULES),
        )
        def first(self, waves: str, failures: int, schedule: dict[str, Any]) -> None:
            self.paper.time_zones = {"d0": "Asia/Tokyo", "d1": "America/St_Johns", "d2": "No/Where"}
            self.paper.start(
                "r1",
                waves=waves,
                unproven=True,
                max_failures=failures,
                silence_deadline_s=30,
                progress_deadline_s=45,
                **schedule,
            )
            chosen = self.paper.choices["1"]["zero"].variant
            assert chosen is not None
            next_best = replace(chosen, variant_id="1-zero-next")
            self.paper.choices["1"]["zero"] = ChoiceFact(variant=chosen, others=(next_best,))

        @precondition(lambda self: len(self.paper.rollouts) < 3)
        @rule(
            waves=st.sampled_from(["100%", "3,100%"]),
            unproven=st.booleans(),
            model=st.sampled_from("mmn"),
            schedule=st.sampled_from(SCHEDULES),
        )
        def another(self, waves: str, unproven: bool, model: str, schedule: dict[str, Any]) -> None:  # noqa: FBT001
            number = str(len(self.paper.rollouts) + 1)
            self.paper.start(f"r{number}", version=number, model=model, waves=waves, unproven=unproven, **schedule)

        @rule(seconds=st.sampled_from([0.5, 10.0, 31.0, 1800.0]))
        def tick(self, seconds: float) -> None:
            self.paper.tick(seconds)

        @rule(device=st.integers(0, MOST_DEVICES - 1), what=st.sampled_from(REPORTED), model=st.sampled_from("mmn"))
        def trouble(self, device: int, what: tuple[DeploymentState, Reason], model: str) -> None:
            if self.paper.wanted(f"d{device}", model):
                self.paper.report(f"d{device}", what[0], reason=what[1], model=model)

        @rule(
            device=st.integers(0, MOST_DEVICES - 1),
            what=st.sampled_from([*REPORTED[:-1], (DeploymentState.STAGED, Reason.HELD)]),
            model=st.sampled_from("mmn"),
        )
        def ready_or_not(self, device: int, what: tuple[DeploymentState, Reason], model: str) -> None:
            if self.paper.staged(f"d{device}", model):
                self.paper.report(f"d{device}", what[0], reason=what[1], model=model, staged=True)

        @rule(first=st.integers(0, MOST_DEVICES - 1), count=st.integers(1, MOST_DEVICES), proven=st.booleans())
        def lay_ready(self, first: int, count: int, proven: bool) -> None:  # noqa: FBT001
            devices = [f"d{number}" for number in range(first, min(MOST_DEVICES, first + count))]
            self.paper.lay_ready(*filter(self.paper.staged, devices), proven=proven)

        @rule(first=st.integers(0, MOST_DEVICES - 1), count=st.integers(1, MOST_DEVICES), model=st.sampled_from("mmn"))
        def success(self, first: int, count: int, model: str) -> None:
            for device in range(first, min(MOST_DEVICES, first + count)):
                if self.paper.wanted(f"d{device}", model):
                    self.paper.report(f"d{device}", model=model)

        @rule(device=st.integers(0, MOST_DEVICES - 1))
        def alive(self, device: int) -> None:
            self.paper.seen(f"d{device}")

        @precondition(lambda self: len(self.paper.devices) < MOST_DEVICES)
        @rule(profile=st.sampled_from(["pi", "zero"]))
        def join(self, profile: str) -> None:
            self.paper.devices[f"d{len(self.paper.devices)}"] = profile

        @rule(
            first=st.integers(0, MOST_DEVICES - 1),
            count=st.integers(1, MOST_DEVICES),
            sample=st.sampled_from(SAMPLES),
            model=st.sampled_from("mmn"),
        )
        def measure(self, first: int, count: int, sample: Sample, model: str) -> None:
            """Some come to run it and measure it; a sample is what a device measured first: it never changes."""
            self.success(first, count, model)
            self.paper.tick(1.0)
            for deployment_id in self.running(range(first, first + count), model):
                self.paper.measured.setdefault(deployment_id, Measured(sample, GOOD))

        @rule(first=st.integers(0, MOST_DEVICES - 1), count=st.integers(1, 4), model=st.sampled_from("mmn"))
        def use(self, first: int, count: int, model: str) -> None:
            self.paper.in_use.update(self.running(range(first, first + count), model))

        def running(self, numbers: range, model: str) -> list[str]:
            """The deployments that are known to run on some devices."""
            wanted = (self.paper.wanted(f"d{number}", model) for number in numbers)
            rows = (self.paper.ledger.deployments[entry.deployment_id] for entry in wanted if entry is not None)
            return [row.deployment_id for row in rows if row.state == RUNNING]

        @precondition(lambda self: self.paper.wishes)
        @rule(found=st.booleans(), end=st.sampled_from(["running", "done", "done", "failed"]))
        def compressor(self, found: bool, end: str) -> None:  # noqa: FBT001
            """The latest job that was asked for is under way, or has ended; what a lane gets changes with it."""
            wish = self.paper.wishes[-1]
            if self.paper.asked.get(wish.job_id, AskedJob("queued")).state not in {"queued", "running"}:
                return
            self.paper.asked[wish.job_id] = AskedJob(end, "" if found else "Nothing fits.")
            choice = self.paper.choices[wish.version][wish.profile]
            if end == "done" and found and choice.variant is not None:
                new = replace(choice.variant, variant_id=f"{wish.version}-{wish.profile}-found{len(self.paper.wishes)}")
                others = (choice.variant, *choice.others)
                self.paper.choices[wish.version][wish.profile] = ChoiceFact(variant=new, others=others)

        @rule(device=st.integers(0, MOST_DEVICES - 1))
        def remove(self, device: int) -> None:
            if len(self.paper.removed) < 2:
                self.paper.removed.add(f"d{device}")

        @rule(
            action=st.sampled_from(WORDS),
            which=st.integers(1, 3),
        )
        def command(self, action: str, which: int) -> None:
            if f"r{which}" in self.paper.rollouts:
                self.paper.say(f"r{which}", action)

        @rule(action=st.sampled_from(LANE_WORDS), which=st.integers(1, 3), profile=st.sampled_from(["pi", "zero"]))
        def command_lane(self, action: str, which: int, profile: str) -> None:
            if f"r{which}" in self.paper.rollouts:
                self.paper.say(f"r{which}", action, profile)

        @invariant()
        def waves_only_grow_and_no_wave_opens_early(self) -> None:
            for name, standing in self.paper.ledger.standings.items():
                assert standing.wave >= self.best_wave.get(name, -1)
                if standing.wave > max(0, self.best_wave.get(name, -1)):
                    before = [row for row in self.paper.ledger.rows_of(name) if row.wave == standing.wave - 1]
                    held = {row.state for row in before if not standing.lane(row.profile).held}
                    assert held <= SETTLED | {"rolling_back"}
                self.best_wave[name] = standing.wave
                for row in self.paper.ledger.rows_of(name):
                    staged = self.paper.rollouts[name].options.stage and not _is_to_run(self.paper, row)
                    assert row.opened_at is None or row.wave <= standing.wave or staged

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
        def what_lies_ready_is_of_a_rollout_that_stages_and_runs_nowhere(self) -> None:
            for device, models in self.paper.ledger.staged.items():
                for model, entry in models.items():
                    row = self.paper.ledger.deployments[entry.deployment_id]
                    assert (row.device_id, row.model, row.version) == (device, model, entry.version)
                    assert self.paper.wanted(device, model) != entry
                    assert self.paper.rollouts[row.rollout_id].options.stage
                    assert row.running_at is None
                    assert row.state not in {"waiting", "no_variant", "cancelled", "superseded", "running"}
                    standing = self.paper.ledger.standings[row.rollout_id]
                    assert standing.state not in WITHDRAWN
                    assert not standing.activated or row.wave >= standing.wave or standing.state in OPEN_STATES

        @invariant()
        def nobody_is_told_to_run_what_is_not_activated(self) -> None:
            for name, standing in self.paper.ledger.standings.items():
                if self.paper.rollouts[name].options.stage and not standing.activated:
                    assert standing.wave < 0
                    assert not any(_is_to_run(self.paper, row) for row in self.paper.ledger.rows_of(name))

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
        def every_offer_is_inside_the_window_the_pace_and_the_places(self) -> None:
            now = self.paper.now
            for name, rollout in self.paper.rollouts.items():
                options, rows = rollout.options, self.paper.ledger.rows_of(name)
                offered = [row for row in rows if row.state == "offered" and row.opened_at == now and not row.detail]
                fresh = [row for row in offered if not went_back_to(row)]
                for row in fresh if options.window else ():
                    if self.paper.ledger.is_staged(row):
                        continue  # to be fetched at any time of the day
                    zone = zone_of(self.paper.time_zones.get(row.device_id), default=options.time_zone)
                    assert is_open(parse_window(options.window), zone, now=now)
                if fresh and options.pace_per_minute:
                    pace = offering.pace_in_wave(
                        options.pace_per_minute, options.pace_growth, wave=self.paper.ledger.standings[name].wave
                    )
                    assert sum(row.opened_at is not None and row.opened_at > now - 60 for row in rows) <= (pace or 0)
                if options.max_in_progress:
                    assert sum(offering.takes_place(row) for row in rows) <= options.max_in_progress

        @invariant()
        def who_joins_later_is_in_no_plan_that_does_not_let_it(self) -> None:
            for name in self.paper.ledger.standings:
                rows = self.paper.ledger.rows_of(name)
                devices = frozenset(row.device_id for row in rows)
                assert len(devices) == len(rows)
                planned = self.planned.setdefault(name, devices)
                assert devices == planned or self.paper.rollouts[name].options.join_later

        @invariant()
        def nobody_is_given_what_measurements_have_stopped(self) -> None:
            for name, standing in self.paper.ledger.standings.items():
                for stop in standing.gate_stops:
                    since = self.stopped.setdefault((name, stop.profile, stop.variant_id), self.paper.now)
                    for row in self.paper.ledger.rows_of(name):
                        if (row.profile, row.variant_id) == (stop.profile, stop.variant_id):
                            assert row.opened_at is None or row.opened_at < since or went_back_to(row)
                            # nor left to whoever was silent when it was stopped, not even after the end
                            assert went_back_to(row) or not self.paper.ledger.is_wanted(row)

        @invariant()
        def lanes_ask_once_for_each_need_and_are_offered_nothing_meanwhile(self) -> None:
            asked = [wish.job_id for wish in self.paper.wishes]
            assert len(asked) == len(set(asked))
            for name, standing in self.paper.ledger.standings.items():
                most = self.paper.rollouts[name].options.ask_times
                for profile, lane in standing.lanes.items():
                    numbers = [
                        wish.number for wish in self.paper.wishes if (wish.rollout_id, wish.profile) == (name, profile)
                    ]
                    assert numbers == [one.number for one in lane.asks] == list(range(1, len(lane.asks) + 1))
                    assert len(numbers) <= most
                    assert all(one.outcome for one in lane.asks[:-1])
                    rows = [row for row in self.paper.ledger.rows_of(name) if row.profile == profile]
                    fresh = [row for row in rows if row.opened_at == self.paper.now and not went_back_to(row)]
                    if lane.waits_for is not None:
                        assert [row for row in fresh if row.state == "offered" and not row.detail] == []
                    if lane.asks:
                        assert not {row.variant_id for row in fresh} & set(lane.rejected)

        @invariant()
        def generations_only_grow(self) -> None:
            next(steps)
            for device, generation in self.paper.ledger.generations.items():
                assert generation >= self.generations.get(device, 0)
                self.generations[device] = generation

        def teardown(self) -> None:
            """Whatever happened: devices that do as they are told bring every open rollout to its end."""
            for name in self.paper.rollouts:
                for profile in (None, "pi", "zero"):
                    self.paper.say(name, "resume", profile)
            for number in range(800):  # three waves, each in a night of its own
                for name in self.paper.rollouts:
                    self.paper.say(name, "approve")
                    self.paper.say(name, "activate")
                    self.paper.say(name, "resume")  # too little measured has paused it
                    for profile in ("pi", "zero") if number % 20 == 0 else ():
                        self.paper.say(name, "resume", profile)  # what is undecided has paused that
                for device, models in self.paper.ledger.wanted.items():
                    self.paper.takes_up(device)
                    for model in models:
                        self.paper.report(device, model=model)
                self.paper.tick(1800 if number % 4 == 0 else 1)
                waiting = [s.reason for s in self.paper.ledger.standings.values() if s.state in OPEN_STATES]
                if number > 12 and not waiting:
                    break
            assert waiting == [], self.paper.sentences[-12:]
            self.paper.commands.clear()
            self.paper.tick(1)
            assert not self.paper.ledger.changed

    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
    taken = next(steps)
    assert taken >= LEAST_STEPS[examples]
