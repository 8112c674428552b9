"""Bad versions on simulated fleets: how many devices get them before the rollout engine stops, and healthy ones too.

    python -m benchmarks.rollouts [--runs 200] [--healthy-runs 2000] [--seed 0] [--json FILE]

The engine and its gates are the real ones, with a fleet in memory: 1,000 devices of 5 profiles, latency log-normal with
a sigma of 0.3 between devices and 0.2 within one, 0.5 % of inferences fail, 10 % of devices are silent, 200 inferences
in a window. Beside it the rules of two others on the same fleets, which see only whether an update was installed:
hawkBit's (the same groups; the next starts when 50 % of a group succeeded, it stops when 30 % failed) and AWS IoT Jobs'
(50 devices a minute; it aborts when 10 % of at least 10 executions failed).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.protocol.messages import DeploymentStatus, DesiredDeployment, SelfTestReport
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.sketch import RELATIVE_ACCURACY
from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts import facts
from server.rollouts.engine import advance
from server.rollouts.health import Measured, Sample
from server.rollouts.ledger import Ledger
from server.rollouts.plan import parse_waves
from server.schemas.rollouts import RolloutOptions, RolloutState

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEVICES: Final = 1000
PROFILES: Final = tuple(f"profile-{number}" for number in range(5))
WAVES: Final = "1%,5%,10%,25%,45%,100%"
BETWEEN, WITHIN, ERROR_RATE, SILENT, WINDOW = 0.3, 0.2, 0.005, 0.1, 200
ROUND_S: Final = 301.0
HAWKBIT_SUCCESS, HAWKBIT_ERROR = 0.5, 0.3
AWS_PER_MINUTE, AWS_LEAST, AWS_FAILED = 50, 10, 0.1
EPOCH: Final = 1
PASSED: Final = SelfTestReport(passed=True, runtime=RuntimeName.LITERT, delegate=Delegate.XNNPACK)


@dataclass(frozen=True)
class Scenario:
    """What is wrong with the new version, and in which lanes."""

    name: str
    lanes: tuple[str, ...] = ()
    fails: bool = False
    """It does not start."""
    slowdown: float = 0.0
    error_rate: float = ERROR_RATE
    most_of_lane: int | None = None
    """Devices of a lane that may get it before it is stopped there."""
    most_of_fleet: int | None = None


SCENARIOS: Final = (
    Scenario("fails everywhere in one lane", PROFILES[:1], fails=True, most_of_lane=3),
    Scenario("fails everywhere", PROFILES, fails=True, most_of_fleet=15),
    Scenario("30 % slower in one lane", PROFILES[:1], slowdown=0.3, most_of_lane=20),
    Scenario("errors 0.5 -> 1.5 % everywhere", PROFILES, error_rate=0.015, most_of_fleet=499),
    Scenario("every inference fails in one lane", PROFILES[:1], error_rate=1.0, most_of_lane=20),
    Scenario("healthy (the same version again)"),
)


@dataclass(frozen=True)
class Outcome:
    """One run: who got the version, and what stopped."""

    reached: int
    """Devices that got it: of the bad lanes, or of all if every lane is bad or none."""
    stopped: bool
    """All bad lanes stopped; in a healthy version, any."""
    wrongly: bool
    """A good lane stopped."""


@dataclass
class Fleet:
    """A seeded fleet with a version 1 that runs everywhere, and what each device would measure of version 2."""

    seed: int
    scenario: Scenario
    profiles: dict[str, str] = field(init=False)
    silent: frozenset[str] = field(init=False)
    measured: dict[str, Measured] = field(init=False)

    def __post_init__(self) -> None:
        chance = np.random.default_rng((self.seed, DEVICES))
        names = [f"d{number:04d}" for number in range(DEVICES)]
        self.profiles = {name: PROFILES[number % len(PROFILES)] for number, name in enumerate(names)}
        loud = chance.random(DEVICES) >= SILENT
        self.silent = frozenset(name for name, speaks in zip(names, loud, strict=True) if not speaks)
        bad = np.array([profile in self.scenario.lanes for profile in self.profiles.values()])
        centre = chance.normal(math.log(10.0), BETWEEN, DEVICES)
        before = self._samples(chance, centre, np.full(DEVICES, ERROR_RATE))
        slower = np.where(bad, math.log1p(self.scenario.slowdown), 0.0)
        now = self._samples(chance, centre + slower, np.where(bad, self.scenario.error_rate, ERROR_RATE))
        self.measured = {name: Measured(now[number], before[number]) for number, name in enumerate(names)}

    @staticmethod
    def _samples(
        chance: np.random.Generator, centre_log_ms: NDArray[np.float64], error_rate: NDArray[np.float64]
    ) -> list[Sample]:
        """One window of each device, its p95 as a sketch tells it."""
        latency_log = chance.normal(centre_log_ms[:, None], WITHIN, (DEVICES, WINDOW))
        p95_log = np.partition(latency_log, int(0.95 * (WINDOW - 1)), axis=1)[:, int(0.95 * (WINDOW - 1))]
        bin_width = math.log((1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY))
        p95_ms = np.exp(np.round(p95_log / bin_width) * bin_width)
        failures = chance.binomial(WINDOW, error_rate)
        return [
            Sample(WINDOW, int(failed), float(p95) if failed < WINDOW else None)
            for failed, p95 in zip(failures, p95_ms, strict=True)
        ]

    def fails(self, device: str) -> bool:
        """Whether version 2 does not start on it."""
        return self.scenario.fails and self.profiles[device] in self.scenario.lanes


class Rollout:
    """Version 2 on its way through a fleet, by the engine."""

    def __init__(self, fleet: Fleet, options: RolloutOptions) -> None:
        self.fleet = fleet
        variants = {(profile, version): _variant(profile, version) for profile in PROFILES for version in "12"}
        self.plan = facts.Rollout("r2", "m", "2", "", parse_waves(WAVES), fleet.seed, options, 1.0)
        self.heard: dict[str, facts.Heard] = {}
        self.now_s = 1e6
        rows = [_old_row(device, profile) for device, profile in fleet.profiles.items()]
        self.ledger = Ledger(
            deployments=rows,
            wanted={row.device_id: {"m": _entry(row)} for row in rows},
            standings={"r1": facts.Standing(state=RolloutState.FINISHED, wave=0)},
            age_of=lambda rollout_id: (float(rollout_id[1:]), rollout_id),
        )
        self.targets = tuple(facts.DeviceFact(name, profile, {}) for name, profile in fleet.profiles.items())
        self.choices = {profile: facts.ChoiceFact(variants[profile, "2"]) for profile in PROFILES}
        self.variants = {(profile, f"{version}-{profile}"): fact for (profile, version), fact in variants.items()}

    def run(self) -> Outcome:
        """Round after round, until it has ended and nothing changes any more."""
        for _ in range(100):
            self.now_s += ROUND_S
            advance(self._facts(), self.ledger, epoch=EPOCH, now=self.now_s)
            changed = self.ledger.changed_devices | self.ledger.changed_deployments
            for device in self.ledger.changed_devices:
                self.ledger.generations[device] = self.ledger.generations.get(device, 0) + 1
            for deployment_id in self.ledger.changed_deployments:
                self.ledger.deployments[deployment_id].changed_at = self.now_s
            self._devices_act(self.ledger.changed_devices - self.fleet.silent)
            self.ledger.changed_devices, self.ledger.changed_deployments = set(), set()
            standing = self.ledger.standings["r2"]
            if standing.state not in {RolloutState.PREPARING, RolloutState.RUNNING} and not changed:
                break
        return self._outcome()

    def _facts(self) -> facts.Facts:
        running = [row for row in self.ledger.rows_of("r2") if row.running_at is not None]
        return facts.Facts(
            rollout=self.plan,
            targets=self.targets,
            choices=self.choices,
            variants=self.variants,
            heard=self.heard,
            # the window of the round in which it began to run is still open
            measured={
                row.deployment_id: self.fleet.measured[row.device_id]
                for row in running
                if self.now_s > (row.running_at or 0.0) + 1
            },
            expected=frozenset(row.deployment_id for row in running if self.now_s <= (row.running_at or 0.0) + 1),
        )

    def _devices_act(self, devices: set[str]) -> None:
        for device in devices:
            entry = self.ledger.wanted[device]["m"]
            bad = entry.version == "2" and self.fleet.fails(device)
            status = DeploymentStatus(
                deployment_id=entry.deployment_id,
                model="m",
                version=entry.version,
                variant_id=entry.variant_id,
                state=DeploymentState.ROLLED_BACK if bad else DeploymentState.ACTIVE,
                reason=Reason.CRASH_LOOP if bad else Reason.NONE,
                serving=not bad,
                file_sha256=None if bad else entry.version * 64,
                self_test=None if bad else PASSED,
            )
            observed = (EPOCH, self.ledger.generations[device])
            self.heard[device] = facts.Heard(self.now_s, observed, {entry.deployment_id: status})

    def _outcome(self) -> Outcome:
        bad = set(self.fleet.scenario.lanes) or set(PROFILES)
        rows = self.ledger.rows_of("r2")
        got = (row.device_id for row in rows if row.profile in bad and row.opened_at is not None)
        reached = len(set(got) - self.fleet.silent)
        standing = self.ledger.standings["r2"]
        # a lane goes on exactly if a version 2 is left on it; one that was paused because it is undecided does not
        stopped = {stop.profile for stop in standing.gate_stops}
        stopped |= {profile for profile, lane in standing.lanes.items() if lane.paused}
        stopped |= {row.profile for row in rows if row.reason in {facts.Why.LANE_STOPPED, facts.Why.ROLLOUT_STOPPED}}
        healthy = not self.fleet.scenario.lanes
        wrongly = stopped if healthy else stopped - bad
        return Outcome(reached, bool(stopped) if healthy else bad <= stopped, bool(wrongly))


def run_shoal(fleet: Fleet, options: RolloutOptions | None = None) -> Outcome:
    """The engine of this project on a fleet."""
    return Rollout(fleet, options or RolloutOptions()).run()


def run_hawkbit(fleet: Fleet) -> Outcome:
    """Groups with an error and a success threshold; who is silent has no deadline there and may hold up the next."""
    order = list(np.random.default_rng(fleet.seed).permutation(list(fleet.profiles)))
    reached, stopped = 0, False
    for wave in parse_waves(WAVES):
        group = order[reached : math.ceil(DEVICES * (wave.percent or 0) / 100)]
        reached += len(group)
        failed = sum(fleet.fails(device) for device in group if device not in fleet.silent)
        good = sum(not fleet.fails(device) for device in group if device not in fleet.silent)
        stopped = failed >= HAWKBIT_ERROR * len(group)
        if stopped or good < HAWKBIT_SUCCESS * len(group):
            break
    return _of_bad_lanes(fleet, order[:reached], stopped=stopped)


def run_aws(fleet: Fleet) -> Outcome:
    """A constant rate; aborts on a percentage of failed executions, known a minute after they began."""
    order = list(np.random.default_rng(fleet.seed).permutation(list(fleet.profiles)))
    for reached in range(AWS_PER_MINUTE, DEVICES + 1, AWS_PER_MINUTE):
        executed = [device for device in order[:reached] if device not in fleet.silent]
        failed = sum(fleet.fails(device) for device in executed)
        if len(executed) >= AWS_LEAST and failed >= AWS_FAILED * len(executed):
            return _of_bad_lanes(fleet, order[:reached], stopped=True)
    return _of_bad_lanes(fleet, order, stopped=False)


def _of_bad_lanes(fleet: Fleet, reached: list[str], *, stopped: bool) -> Outcome:
    bad = set(fleet.scenario.lanes) or set(PROFILES)
    number = sum(fleet.profiles[device] in bad for device in set(reached) - fleet.silent)
    return Outcome(number, stopped, stopped and bad != set(PROFILES))


def _variant(profile: str, version: str) -> facts.VariantFact:
    return facts.VariantFact(f"{version}-{profile}", "a" * 64, 100, unproven=False, model_file_sha256=version * 64)


def _old_row(device: str, profile: str) -> facts.Deployment:
    return facts.Deployment(
        deployment_id=f"old-{device}",
        rollout_id="r1",
        device_id=device,
        wave=0,
        profile=profile,
        model="m",
        version="1",
        variant_id=f"1-{profile}",
        state=facts.RUNNING,
        running_at=1.0,
    )


def _entry(row: facts.Deployment) -> DesiredDeployment:
    return DesiredDeployment(
        deployment_id=row.deployment_id,
        model="m",
        version=row.version,
        variant_id=str(row.variant_id),
        manifest_sha256="a" * 64,
        manifest_bytes=100,
    )


def play(scenario: Scenario, *, runs: int, seed: int) -> dict[str, list[Outcome]]:
    """Every rule on the same fleets."""
    outcomes: dict[str, list[Outcome]] = {"Shoal": [], "hawkBit's rule": [], "AWS Jobs' rule": []}
    for number in range(runs):
        fleet = Fleet(seed + number, scenario)
        outcomes["Shoal"].append(run_shoal(fleet))
        outcomes["hawkBit's rule"].append(run_hawkbit(fleet))
        outcomes["AWS Jobs' rule"].append(run_aws(fleet))
    return outcomes


def misses(scenario: Scenario, outcomes: list[Outcome]) -> list[str]:
    """Which goals were missed, each as a sentence."""
    missed = []
    most = scenario.most_of_lane if scenario.most_of_lane is not None else scenario.most_of_fleet
    worst = max(outcome.reached for outcome in outcomes)
    if most is not None and worst > most:
        missed.append(f"{scenario.name}: reached {worst} devices, at most {most} are the goal")
    if scenario.lanes and not all(outcome.stopped for outcome in outcomes):
        missed.append(f"{scenario.name}: {sum(not outcome.stopped for outcome in outcomes)} runs did not stop")
    wrong = sum(outcome.wrongly for outcome in outcomes)
    if wrong > 0.01 * len(outcomes):
        missed.append(f"{scenario.name}: {wrong} of {len(outcomes)} runs stopped a healthy lane, 1 % may")
    return missed


def main() -> int:
    """Print the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=200, help="of each bad version")
    parser.add_argument("--healthy-runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    missed: list[str] = []
    sys.stdout.write(
        f"{'version':36}{'rule':16}{'runs':>6}{'stopped':>9}{'wrongly':>9}  reached: median  worst   goal\n"
    )
    for scenario in SCENARIOS:
        runs = options.runs if scenario.lanes else options.healthy_runs
        by_rule = play(scenario, runs=runs, seed=options.seed)
        goal = scenario.most_of_lane or scenario.most_of_fleet or "-"
        for rule, outcomes in by_rule.items():
            reached = [outcome.reached for outcome in outcomes]
            stopped, wrongly = sum(o.stopped for o in outcomes), sum(o.wrongly for o in outcomes)
            sys.stdout.write(
                f"{scenario.name:36}{rule:16}{runs:6}{stopped / runs:9.1%}{wrongly / runs:9.2%}"
                f"{statistics.median(reached):17.0f}{max(reached):7}{goal:>7}\n"
            )
        sys.stdout.flush()
        found[scenario.name] = {rule: [asdict(o) for o in outcomes] for rule, outcomes in by_rule.items()}
        missed += misses(scenario, by_rule["Shoal"])
    if options.json:
        options.json.write_text(json.dumps(found))
    sys.stdout.writelines(f"missed: {sentence}\n" for sentence in missed)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
