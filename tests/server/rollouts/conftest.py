"""A rollout's story on paper: devices that report, an operator, a clock, and the engine's ticks. No IO."""

from __future__ import annotations

import copy
import hashlib
import random
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from edge_agent.protocol.manifest import (
    Encoding,
    FileRole,
    ObjectDescriptor,
    PayloadFile,
    TensorBinding,
    VariantManifest,
)
from edge_agent.protocol.messages import DeploymentStatus, Desired, DesiredDeployment, SelfTestReport, Status
from edge_agent.protocol.profile import Arch, Cpu, Delegate, DeviceProfile, Limits, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from edge_agent.protocol.states import DeploymentState, Reason
from server.database import tables
from server.rollouts.engine import advance
from server.rollouts.facts import ChoiceFact, Command, Deployment, DeviceFact, Facts, Heard, Rollout, VariantFact
from server.rollouts.ledger import Ledger
from server.rollouts.plan import parse_waves
from server.schemas.rollouts import RolloutOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.shadow import ShadowReport
    from server.database.connect import Database
    from server.rollouts.asking import Wish
    from server.rollouts.facts import AskedJob
    from server.rollouts.health import Measured
    from server.storage import S3ObjectStore

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
    status_interval_s: float = 0.0
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    choices: dict[str, dict[str, ChoiceFact]] = field(default_factory=dict)  # version -> profile
    build_failures: dict[str, str] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    time_zones: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)  # by deployment
    in_use: set[str] = field(default_factory=set)  # deployments that answer inferences
    commands: dict[str, list[Command]] = field(default_factory=dict)
    asked: dict[str, AskedJob] = field(default_factory=dict)  # by job
    wishes: list[Wish] = field(default_factory=list)
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
        **options: object,
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
            staged=copy.deepcopy(self.ledger.staged),
            generations=dict(self.ledger.generations),
            standings=copy.deepcopy(self.ledger.standings),
            age_of=lambda rollout_id: self.rollouts[rollout_id].age_order,
            priority_of=lambda rollout_id: self.rollouts[rollout_id].options.priority,
        )
        for device in self.removed:
            if self.ledger.wanted.get(device) or self.ledger.staged.get(device):
                self.ledger.forget_device(device)
        # as the reader gives them
        for name in sorted(self.rollouts, key=lambda known: self.rollouts[known].turn_order, reverse=True):
            advance(self.facts(name), self.ledger, epoch=EPOCH, now=self.now)
        for device in self.ledger.changed_devices:
            self.ledger.generations[device] = self.ledger.generations.get(device, 0) + 1
        for deployment_id in self.ledger.changed_deployments:
            self.ledger.deployments[deployment_id].changed_at = self.now
        self.wishes += self.ledger.wishes
        self.sentences += [(decision.action, decision.sentence) for decision in self.ledger.decisions]

    def facts(self, name: str) -> Facts:
        rollout = self.rollouts[name]
        choices = self.choices.get(rollout.version, {})
        own = {row.deployment_id for row in self.ledger.rows_of(name)}
        return Facts(
            rollout=rollout,
            targets=tuple(
                DeviceFact(device, profile, {}, device in self.removed) for device, profile in self.devices.items()
            ),
            removed=frozenset(self.removed),
            choices=choices,
            variants={
                (profile, one.variant_id): one
                for profile, choice in choices.items()
                for one in (choice.variant, *choice.others)
                if one
            },
            build_failures=self.build_failures,
            heard=self.heard,
            measured={one: self.measured[one] for one in own if one in self.measured},
            expected=frozenset(own & self.in_use - set(self.measured)),
            commands=tuple(self.commands.get(name, ())),
            asked=self.asked,
            time_zones=self.time_zones,
            status_interval_s=self.status_interval_s,
        )

    def say(self, name: str, action: str, profile: str | None = None) -> None:
        number = 1 + sum(len(commands) for commands in self.commands.values())
        self.commands.setdefault(name, []).append(Command(number, action, profile=profile))

    def wanted(self, device: str, model: str = "m") -> DesiredDeployment | None:
        return self.ledger.wanted.get(device, {}).get(model)

    def staged(self, device: str, model: str = "m") -> DesiredDeployment | None:
        return self.ledger.staged.get(device, {}).get(model)

    def report(
        self,
        device: str,
        state: DeploymentState = DeploymentState.ACTIVE,
        *,
        reason: Reason = Reason.NONE,
        model: str = "m",
        staged: bool = False,
        **changes: object,
    ) -> None:
        """The device says this of what it is wanted to run, or to hold ready, and forgets what it is not."""
        entry, other = self.wanted(device, model), self.staged(device, model)
        if staged:
            entry, other = other, entry
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
            if told.model != model or (other is not None and known == other.deployment_id)
        }
        self.heard[device] = Heard(
            last_seen_at=self.now,
            observed=(EPOCH, self.ledger.generations.get(device, 0)),
            deployments={**others, entry.deployment_id: status.model_copy(update=changes)},
        )

    def takes_up(self, device: str) -> None:
        """The device has read its desired state, and forgets what that does not name."""
        entries = (*self.ledger.wanted.get(device, {}).values(), *self.ledger.staged.get(device, {}).values())
        wanted = {entry.deployment_id for entry in entries}
        told = self.heard[device].deployments if device in self.heard else {}
        self.heard[device] = Heard(
            last_seen_at=self.now,
            observed=(EPOCH, self.ledger.generations.get(device, 0)),
            deployments={name: status for name, status in told.items() if name in wanted},
        )

    def lay_ready(self, *devices: str, proven: bool = True) -> None:
        """They hold ready what they were told to."""
        for device in devices:
            proof = self_test() if proven else None
            self.report(device, DeploymentState.STAGED, reason=Reason.HELD, staged=True, self_test=proof)

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


EPOCH_OF_REGISTRY = 7


def _describe_variant(
    store: S3ObjectStore, profile: str, version: str, *, salt: str, filler_bytes: int, variant_id: str = ""
) -> tuple[dict[str, object], str]:
    """A real manifest in S3 and the row of its variant: (row, sha256 of the model file)."""
    model_file = f"{salt}:{profile}:{version}:{variant_id}".encode() + random.Random(salt).randbytes(filler_bytes)
    store.put_bytes(model_file)
    file_sha256 = hashlib.sha256(model_file).hexdigest()
    described = ObjectDescriptor.describe(model_file, encoding=Encoding.IDENTITY)
    tensor = TensorSpec(name="x", shape=(-1, 4))
    binding = TensorBinding(name="x", index=0, datatype=Datatype.FP32, shape=(1, 4))
    manifest = VariantManifest(
        variant_id=variant_id or f"v{version}-{profile}",
        model="m",
        version=version,
        profile=profile,
        recipe="float32",
        runtime=RuntimeName.LITERT,
        delegate=Delegate.XNNPACK,
        signature=ModelSignature(inputs=(tensor,), outputs=(tensor,)),
        inputs=(binding,),
        outputs=(binding,),
        files=(PayloadFile(role=FileRole.MODEL, sha256=file_sha256, size_bytes=len(model_file)),),
        payload_sha256=file_sha256,
        object=described,
    )
    stored = store.put_bytes(manifest.model_dump_json().encode())
    row = {
        "model": "m",
        "version": version,
        "profile": profile,
        "variant_id": manifest.variant_id,
        "recipe": "float32",
        "runtime": "litert",
        "delegate": "xnnpack",
        "verdict": "fits",
        "chosen": True,
        "manifest_sha256": stored.sha256,
        "manifest_bytes": stored.size_bytes,
        "object_sha256": described.sha256,
        "object_bytes": described.size_bytes,
        "document": {},
        "created_at": 0.0,
    }
    return row, file_sha256


@dataclass
class Registry:
    """A registry's database with devices, versions 1 and 2 of the model `m`, and their manifests in S3."""

    database: Database
    store: S3ObjectStore
    broker: str
    salt: str
    files: dict[str, str] = field(default_factory=dict)  # variant -> sha256 of its model file
    sequence: int = 0

    def device(self, number: int) -> str:
        return f"{self.salt}-{number}"

    def fill(self, devices: int, *, filler_bytes: int = 0) -> None:
        profile = DeviceProfile(
            name="pi",
            arch=Arch.AARCH64,
            cpu=Cpu(model="Cortex-A72", cores=4),
            ram_bytes=1 << 30,
            storage_bytes=1 << 30,
            runtimes=(RuntimeName.LITERT,),
            limits=Limits(latency_p95_ms=40.0),
        )
        with self.database.write() as connection:
            tables.catalogue.create_all(connection)
            row = {"registry_id": "r", "epoch": EPOCH_OF_REGISTRY, "created_at": 0.0}
            connection.execute(sa.insert(tables.registry).values(row))
            document = profile.model_dump(mode="json")
            connection.execute(sa.insert(tables.profiles).values(name="pi", document=document, created_at=0.0))
            for number in range(devices):
                values = {
                    "device_id": self.device(number),
                    "profile": "pi",
                    "labels": {"site": "berlin"},
                    "key_sha256": "0" * 64,
                    "facts": {},
                    "joined_at": 0.0,
                }
                connection.execute(sa.insert(tables.devices).values(values))
        for version in "12":
            row, file_sha256 = _describe_variant(self.store, "pi", version, salt=self.salt, filler_bytes=filler_bytes)
            self.files[str(row["variant_id"])] = file_sha256
            choice = {"model": "m", "version": version, "profile": "pi", "variant_id": row["variant_id"]}
            with self.database.write() as connection:
                connection.execute(sa.insert(tables.variants).values(row))
                connection.execute(sa.insert(tables.choices).values(**choice, refusal=None, created_at=0.0))

    def found(self, variant_id: str) -> dict[str, object]:
        """The row of one more variant of version 2, as a job would make it; its files are in S3."""
        row, file_sha256 = _describe_variant(
            self.store, "pi", "2", salt=self.salt, filler_bytes=0, variant_id=variant_id
        )
        self.files[variant_id] = file_sha256
        return row

    def start(self, name: str, *, version: str = "1", waves: str = "100%", **options: float) -> str:
        row = {
            "rollout_id": name,
            "model": "m",
            "version": version,
            "selector": "site=berlin",
            "waves": [wave.model_dump(exclude_none=True) for wave in parse_waves(waves)],
            "seed": 1,
            "options": options,
            "created_at": time.time(),
        }
        with self.database.write() as connection:
            connection.execute(sa.insert(tables.rollouts).values(row))
        return name

    def command(self, name: str, action: str) -> None:
        with self.database.write() as connection:
            row = {"rollout_id": name, "action": action, "created_at": 0.0}
            connection.execute(sa.insert(tables.rollout_commands).values(row))

    def state(self, name: str) -> str:
        with self.database.read() as connection:
            query = sa.select(tables.rollout_states.c.state).where(tables.rollout_states.c.rollout_id == name)
            return str(connection.execute(query).scalar() or "")

    def rows(self, table: sa.Table) -> list[sa.Row[Any]]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(table)))

    def runs(self, device: str, desired: Desired, *, shadow: ShadowReport | None = None) -> None:
        """The device does as it is told, and the ingest has written its report."""
        self.sequence += 1
        deployments = tuple(
            DeploymentStatus(
                deployment_id=entry.deployment_id,
                model=entry.model,
                version=entry.version,
                variant_id=entry.variant_id,
                state=DeploymentState.ACTIVE,
                serving=True,
                file_sha256=self.files[entry.variant_id],
                self_test=self_test(),
                shadow=shadow,
            )
            for entry in desired.deployments
        )
        status = Status(
            session_id="5" * 32,
            sequence=self.sequence,
            observed_epoch=desired.epoch,
            observed_generation=desired.generation,
            deployments=deployments,
        )
        row = {
            "device_id": device,
            "session_id": status.session_id,
            "session_counter": 1,
            "online": True,
            "last_seen_at": time.time(),
            "status_sequence": status.sequence,
            "status": status.model_dump(mode="json"),
            "observed_epoch": status.observed_epoch,
            "observed_generation": status.observed_generation,
        }
        with self.database.write() as connection:
            connection.execute(sa.delete(tables.device_states).where(tables.device_states.c.device_id == device))
            connection.execute(sa.insert(tables.device_states).values(row))

    def rejects(self, device: str, desired: Desired, reason: str) -> None:
        """The device has found out that what it is wanted to run can't run there."""
        self._says(device, desired, {"state": "rejected", "reason": reason, "detail": "told", "serving": False})

    def downloads(self, device: str, desired: Desired) -> None:
        """The device fetches what it is wanted to run."""
        self._says(device, desired, {"state": "downloading", "serving": False})

    def _says(self, device: str, desired: Desired, words: dict[str, object]) -> None:
        self.runs(device, desired)
        status = tables.device_states.c.status
        condition = tables.device_states.c.device_id == device
        with self.database.write() as connection:
            told: Any = connection.execute(sa.select(status).where(condition)).scalar()
            told["deployments"][0] |= words
            told["sequence"] = self.sequence = self.sequence + 1
            values = {"status": told, "status_sequence": self.sequence}
            connection.execute(sa.update(tables.device_states).where(condition).values(values))


@pytest.fixture
def make_registry(
    new_database: Callable[[str], Database], broker: str, object_store: S3ObjectStore
) -> Callable[..., Registry]:
    """A registry with so many devices, and files with so many bytes in common."""
    database = new_database("registry")

    def make(devices: int, *, filler_bytes: int = 0) -> Registry:
        registry = Registry(database, object_store, broker, salt=f"t{uuid.uuid4().hex[:8]}")
        registry.fill(devices, filler_bytes=filler_bytes)
        return registry

    return make
