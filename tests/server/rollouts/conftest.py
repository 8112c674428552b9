"""A rollout's story on paper: devices that report, an operator, a clock, and the engine's ticks. No IO."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.messages import DeploymentStatus, DesiredDeployment, SelfTestReport
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts.engine import advance
from server.rollouts.facts import ChoiceFact, Command, Deployment, DeviceFact, Facts, Heard, Rollout, VariantFact
from server.rollouts.ledger import Ledger
from server.rollouts.plan import parse_waves
from server.schemas.rollouts import RolloutOptions

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCH = 1


def variant(profile: str, version: str, *, unproven: bool = False) -> VariantFact:
    return VariantFact(
        variant_id=f"{version}-{profile}",
        manifest_sha256="a" * 64,
        manifest_bytes=100,
        unproven=unproven,
        model_file_sha256=("1" if version == "1" else "2") * 64,
    )


def self_test(*, passed: bool = True) -> SelfTestReport:
    return SelfTestReport(passed=passed, runtime=RuntimeName.LITERT, delegate=Delegate.XNNPACK)


@dataclass
class Paper:
    """Everything that a controller would read and write, in memory."""

    devices: dict[str, str]  # id -> profile
    now: float = 1000.0
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    choices: dict[str, dict[str, ChoiceFact]] = field(default_factory=dict)  # version -> profile
    build_failures: dict[str, str] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    commands: dict[str, list[Command]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    sentences: list[tuple[str, str]] = field(default_factory=list)

    def start(
        self,
        name: str,
        *,
        version: str = "1",
        model: str = "m",
        waves: str = "100%",
        unproven: bool = False,
        **options: float,
    ) -> str:
        self.rollouts[name] = Rollout(
            rollout_id=name,
            model=model,
            version=version,
            selector="",
            waves=parse_waves(waves),
            seed=0,
            options=RolloutOptions.model_validate(options),
            created_at=float(len(self.rollouts)),
        )
        for profile in set(self.devices.values()):
            self.choices.setdefault(version, {}).setdefault(
                profile, ChoiceFact(variant=variant(profile, version, unproven=unproven))
            )
        return name

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        # what is not written to the tables is gone: a controller that was killed reads exactly this
        self.ledger = Ledger(
            deployments=copy.deepcopy(list(self.ledger.deployments.values())),
            wanted=copy.deepcopy(self.ledger.wanted),
            generations=dict(self.ledger.generations),
            standings=copy.deepcopy(self.ledger.standings),
            age_of=lambda rollout_id: self.rollouts[rollout_id].age_order,
        )
        for device in self.removed:
            if self.ledger.wanted.get(device):
                self.ledger.forget_device(device)
        for name in self.rollouts:
            advance(self.facts(name), self.ledger, epoch=EPOCH, now=self.now)
        for device in self.ledger.changed_devices:
            self.ledger.generations[device] = self.ledger.generations.get(device, 0) + 1
        self.sentences += [(decision.action, decision.sentence) for decision in self.ledger.decisions]

    def facts(self, name: str) -> Facts:
        rollout = self.rollouts[name]
        choices = self.choices.get(rollout.version, {})
        return Facts(
            rollout=rollout,
            targets=tuple(
                DeviceFact(device, profile, {}, device in self.removed) for device, profile in self.devices.items()
            ),
            removed=frozenset(self.removed),
            choices=choices,
            variants={
                (profile, choice.variant.variant_id): choice.variant
                for profile, choice in choices.items()
                if choice.variant
            },
            build_failures=self.build_failures,
            heard=self.heard,
            commands=tuple(self.commands.get(name, ())),
        )

    def say(self, name: str, action: str) -> None:
        number = 1 + sum(len(commands) for commands in self.commands.values())
        self.commands.setdefault(name, []).append(Command(number, action))

    def wanted(self, device: str, model: str = "m") -> DesiredDeployment | None:
        return self.ledger.wanted.get(device, {}).get(model)

    def report(
        self,
        device: str,
        state: DeploymentState = DeploymentState.ACTIVE,
        *,
        reason: Reason = Reason.NONE,
        model: str = "m",
        **changes: object,
    ) -> None:
        """The device says this of what it is wanted to run, and forgets what it is not."""
        entry = self.wanted(device, model)
        assert entry is not None
        active = state is DeploymentState.ACTIVE
        status = DeploymentStatus(
            deployment_id=entry.deployment_id,
            model=entry.model,
            version=entry.version,
            variant_id=entry.variant_id,
            state=state,
            reason=reason,
            serving=active,
            file_sha256=("1" if entry.version == "1" else "2") * 64 if active else None,
            self_test=self_test() if active else None,
        )
        others = {
            known: told
            for known, told in (self.heard[device].deployments if device in self.heard else {}).items()
            if told.model != model
        }
        self.heard[device] = Heard(
            last_seen_at=self.now,
            observed=(EPOCH, self.ledger.generations.get(device, 0)),
            deployments={**others, entry.deployment_id: status.model_copy(update=changes)},
        )

    def seen(self, device: str) -> None:
        before = self.heard.get(device, Heard(last_seen_at=self.now))
        self.heard[device] = replace(before, last_seen_at=self.now)

    def row(self, name: str, device: str) -> Deployment:
        return next(row for row in self.ledger.rows_of(name) if row.device_id == device)

    def states(self, name: str) -> dict[str, str]:
        return {row.device_id: row.state for row in self.ledger.rows_of(name)}

    def all_run(self, name: str) -> None:
        """Everybody who is wanted to run it does."""
        for row in self.ledger.rows_of(name):
            if self.ledger.is_wanted(row):
                self.report(row.device_id, model=row.model)
        self.tick()

    @property
    def actions(self) -> list[str]:
        return [action for action, _ in self.sentences]

    def sentence(self, action: str) -> str:
        return next(sentence for known, sentence in self.sentences if known == action)


@pytest.fixture
def make_paper() -> Callable[..., Paper]:
    """Ten devices `d0..` of the profile `pi`, unless told otherwise."""

    def make(devices: dict[str, str] | int = 10) -> Paper:
        return Paper(dict.fromkeys((f"d{i}" for i in range(devices)), "pi") if isinstance(devices, int) else devices)

    return make
