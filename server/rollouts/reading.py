"""From the tables to what the rules look at. Remembers what can't have changed, so that a tick reads little."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from edge_agent.protocol.messages import Desired, DesiredDeployment, Status
from edge_agent.protocol.profile import DeviceProfile, Limits
from edge_agent.protocol.states import DeploymentState
from server.database import tables
from server.fleet.selector import SelectorError, parse
from server.rollouts import facts
from server.rollouts.asks import asked_jobs
from server.rollouts.deltas import deltas_to, deltas_until
from server.rollouts.gate import SENT_BACK
from server.rollouts.ledger import Ledger
from server.rollouts.rows import (
    build_failures,
    choices_of,
    deployment_of,
    in_chunks,
    lanes_of,
    newly_removed,
    pending_commands,
)
from server.schemas.catalogue import Task
from server.schemas.common import Verdict
from server.schemas.rollouts import RolloutOptions, RolloutState, Wave
from server.windows import ZONE_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.rollouts.hearing import Hearing
    from server.rollouts.measuring import Measurements

log = logging.getLogger(__name__)

OPEN_STATES = (
    RolloutState.PREPARING,
    RolloutState.STAGING,
    RolloutState.RUNNING,
    RolloutState.PAUSED,
    RolloutState.ROLLING_BACK,
)
_Entries = dict[str, DesiredDeployment]  # by model
_WAVES = TypeAdapter(tuple[Wave, ...])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One consistent view: the epoch, the facts of each rollout that is alive, and the ledger.

    By priority, then newest first: what a newer one takes or gives back, an older one has seen before it opens a wave.
    """

    epoch: int
    facts: tuple[facts.Facts, ...]
    ledger: Ledger
    manifests: frozenset[str]
    """Those that are needed to verify devices."""


@dataclass(slots=True)
class _Picture:
    """What is read once for all rollouts."""

    rollouts: dict[str, facts.Rollout]
    standings: dict[str, facts.Standing]
    commands: dict[str, list[facts.Command]]
    rows: list[facts.Deployment]
    devices: list[facts.DeviceFact] = field(default_factory=list)
    heard: dict[str, facts.Heard] = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)
    time_zones: dict[str, str] = field(default_factory=dict)


class Reader:
    """Reads snapshots; remembers parsed plans, statuses and desired documents."""

    def __init__(
        self,
        model_file_sha256: Callable[[str], str | None],
        *,
        status_interval_s: float = 0.0,
        measurements: Measurements | None = None,
        hearing: Hearing | None = None,
    ) -> None:
        """Nothing is gated without `measurements`; without `hearing` it counts as having heard all there ever was."""
        self._hearing = hearing
        self._measurements = measurements
        self._status_interval_s = status_interval_s
        self._model_file_sha256 = model_file_sha256
        self._rollouts: dict[str, facts.Rollout] = {}
        self._refused: set[str] = set()
        self._statuses: dict[str, tuple[tuple[str | None, int], Status]] = {}
        self._desired: dict[str, tuple[tuple[int, int], _Entries, _Entries]] = {}

    def snapshot(self, connection: sa.Connection) -> Snapshot | None:
        """Read everything that a tick needs; None before the registry has an identity."""
        epoch = connection.execute(sa.select(tables.registry.c.epoch)).scalar()
        if epoch is None:
            return None
        picture = self._picture(connection)
        ledger = self._ledger(connection, picture, int(epoch))
        # what failed long ago stays failed: only what a device is still wanted to run, or to leave, keeps it alive
        touched = {r.rollout_id for r in picture.rows if r.state == facts.ROLLING_BACK or ledger.is_wanted(r)}
        alive = [
            rollout
            for rollout in picture.rollouts.values()
            if rollout.rollout_id in touched or _is_open(picture, rollout.rollout_id)
        ]
        manifests: set[str] = set()
        found = []
        if self._measurements is not None:
            self._measurements.forget_others({rollout.rollout_id for rollout in alive})
        listening_since = self._hearing.since() if self._hearing is not None else 0.0
        for rollout in sorted(alive, key=lambda rollout: rollout.turn_order, reverse=True):
            fact = self._facts(connection, rollout, picture, listening_since)
            manifests |= {variant.manifest_sha256 for variant in fact.variants.values()}
            found.append(fact)
        return Snapshot(int(epoch), tuple(found), ledger, frozenset(manifests))

    def _picture(self, connection: sa.Connection) -> _Picture:
        standings = {
            row.rollout_id: facts.Standing(
                state=RolloutState(row.state),
                wave=row.wave,
                reason=row.reason,
                last_command_id=row.last_command_id,
                gate_stops=tuple(facts.GateStop(**stop) for stop in row.gate_stops or ()),
                unmeasured_wave=row.unmeasured_wave,
                settled_at=row.settled_at,
                approval_wave=row.approval_wave,
                approved_wave=row.approved_wave,
                activated=row.activated,
                lanes=lanes_of(row.lanes),
            )
            for row in connection.execute(sa.select(tables.rollout_states))
        }
        rollouts = dict(self._plans(connection))
        commands = pending_commands(connection)
        picture = _Picture(rollouts, standings, commands, [])
        live = [rollout_id for rollout_id in rollouts if _is_open(picture, rollout_id)]
        columns = tables.deployments.c
        by_id: dict[str, facts.Deployment] = {}
        told_back = sa.and_(
            columns.state == DeploymentState.ROLLED_BACK.value,
            columns.reason.in_([reason.value for reason in SENT_BACK]),
        )
        in_play = sa.and_(columns.state.not_in([str(state) for state in facts.CLOSED_STATES]), sa.not_(told_back))
        for condition in (in_play, *in_chunks(columns.rollout_id, live)):
            for row in connection.execute(sa.select(tables.deployments).where(condition)):
                if row.rollout_id in rollouts:
                    by_id[row.deployment_id] = deployment_of(row)
        picture.rows = list(by_id.values())
        picture.devices = [
            facts.DeviceFact(row.device_id, row.profile, row.labels, row.removed_at is not None)
            for row in connection.execute(sa.select(tables.devices))
        ]
        picture.time_zones = {
            device.device_id: device.labels[ZONE_LABEL] for device in picture.devices if ZONE_LABEL in device.labels
        }
        picture.heard = self._heard(connection)
        for row in connection.execute(sa.select(tables.profiles)):
            picture.limits[row.name] = DeviceProfile.model_validate(row.document).limits
        return picture

    def _plans(self, connection: sa.Connection) -> Iterator[tuple[str, facts.Rollout]]:
        """Every rollout that can be read; a row that can't be is named once and holds up no other."""
        versions = tables.model_versions.c
        of_version = sa.and_(versions.model == tables.rollouts.c.model, versions.version == tables.rollouts.c.version)
        known = tables.rollouts.outerjoin(tables.model_versions, of_version)
        for row in connection.execute(sa.select(*tables.rollouts.c, versions.task).select_from(known)):
            rollout_id = row.rollout_id
            if rollout_id not in self._rollouts and rollout_id not in self._refused:
                try:
                    parse(row.selector)
                    self._rollouts[rollout_id] = facts.Rollout(
                        rollout_id=rollout_id,
                        model=row.model,
                        version=row.version,
                        selector=row.selector,
                        waves=_WAVES.validate_python(row.waves),
                        seed=row.seed,
                        options=RolloutOptions.model_validate(row.options),
                        created_at=row.created_at,
                        scores=row.task == Task.CLASSIFICATION,
                    )
                except (ValidationError, SelectorError):
                    log.exception("rollout %s can't be read and is left alone", rollout_id)
                    self._refused.add(rollout_id)
            if rollout_id in self._rollouts:
                yield rollout_id, self._rollouts[rollout_id]

    def _heard(self, connection: sa.Connection) -> dict[str, facts.Heard]:
        columns = tables.device_states.c
        light = connection.execute(
            sa.select(
                columns.device_id,
                columns.session_id,
                columns.status_sequence,
                columns.last_seen_at,
                columns.observed_epoch,
                columns.observed_generation,
            )
        ).all()
        changed = [
            row.device_id
            for row in light
            if self._statuses.get(row.device_id, (None,))[0] != (row.session_id, row.status_sequence)
        ]
        keys = {row.device_id: (row.session_id, row.status_sequence) for row in light}
        for condition in in_chunks(columns.device_id, changed):
            for device_id, document in connection.execute(
                sa.select(columns.device_id, columns.status).where(condition)
            ):
                self._statuses.pop(device_id, None)
                if document is not None:
                    self._statuses[device_id] = (keys[device_id], Status.model_validate(document))
        heard = {}
        for row in light:
            known = self._statuses.get(row.device_id)
            heard[row.device_id] = facts.Heard(
                last_seen_at=row.last_seen_at,
                observed=(row.observed_epoch, row.observed_generation),
                deployments={told.deployment_id: told for told in known[1].deployments} if known else {},
            )
        return heard

    def _ledger(self, connection: sa.Connection, picture: _Picture, epoch: int) -> Ledger:
        wanted, staged, generations, stale = self._wanted(connection, epoch)
        rollouts = picture.rollouts

        def find(deployment_id: str) -> facts.Deployment | None:
            query = sa.select(tables.deployments).where(tables.deployments.c.deployment_id == deployment_id)
            row = connection.execute(query).first()
            return deployment_of(row) if row else None

        def age_of(rollout_id: str) -> tuple[float, str]:
            return rollouts[rollout_id].age_order if rollout_id in rollouts else (0.0, "")

        def priority_of(rollout_id: str) -> int:
            return rollouts[rollout_id].options.priority if rollout_id in rollouts else 0

        ledger = Ledger(
            deployments=picture.rows,
            wanted=wanted,
            staged=staged,
            generations=generations,
            standings=picture.standings,
            find=find,
            age_of=age_of,
            priority_of=priority_of,
        )
        for device_id in newly_removed(connection):
            ledger.forget_device(device_id)
        removed = {device.device_id for device in picture.devices if device.removed}
        ledger.changed_devices |= stale - removed
        return ledger

    def _wanted(
        self, connection: sa.Connection, epoch: int
    ) -> tuple[dict[str, _Entries], dict[str, _Entries], dict[str, int], set[str]]:
        """What each device shall run and hold ready, the generation of that, and who still has an older epoch's."""
        columns = tables.desired.c
        light = connection.execute(sa.select(columns.device_id, columns.epoch, columns.generation)).all()
        orders = {row.device_id: (row.epoch, row.generation) for row in light}
        changed = [device for device, order in orders.items() if self._desired.get(device, (None,))[0] != order]
        for condition in in_chunks(columns.device_id, changed):
            for device_id, document in connection.execute(
                sa.select(columns.device_id, columns.document).where(condition)
            ):
                desired = Desired.model_validate(document)
                to_run = {entry.model: entry for entry in desired.deployments}
                ready = {entry.model: entry for entry in desired.staged}
                self._desired[device_id] = (orders[device_id], to_run, ready)
        wanted = {device: dict(self._desired[device][1]) for device in orders}
        staged = {device: dict(ready) for device in orders if (ready := self._desired[device][2])}
        generations = {device: generation for device, (_, generation) in orders.items()}
        return wanted, staged, generations, {device for device, (known, _) in orders.items() if known != epoch}

    def _facts(
        self, connection: sa.Connection, rollout: facts.Rollout, picture: _Picture, listening_since: float
    ) -> facts.Facts:
        rows = [row for row in picture.rows if row.rollout_id == rollout.rollout_id]
        targets: tuple[facts.DeviceFact, ...] = ()
        if rollout.rollout_id not in picture.standings or rollout.options.join_later:
            meant = parse(rollout.selector)
            targets = tuple(
                device
                for device in picture.devices
                if meant.matches(labels=device.labels, profile=device.profile, device_id=device.device_id)
            )
        # before what a job has chosen: a job that is seen done has written all of it
        asked = asked_jobs(connection, rollout, picture.standings.get(rollout.rollout_id))
        variants = self._variants(connection, rollout, picture)
        choices = choices_of(connection, rollout, variants)
        measured, expected = (
            self._measurements.of(rollout, rows, picture.standings.get(rollout.rollout_id), picture.limits)
            if self._measurements is not None
            else ({}, frozenset[str]())
        )
        profiles = {row.profile for row in rows} | {device.profile for device in targets}
        missing = profiles - set(choices) if _is_open(picture, rollout.rollout_id) else set()
        return facts.Facts(
            rollout=rollout,
            targets=targets,
            removed=frozenset(device.device_id for device in picture.devices if device.removed),
            choices=choices,
            variants=variants,
            build_failures=build_failures(connection, rollout, missing) if missing else {},
            heard=picture.heard,
            measured=measured,
            expected=expected,
            commands=tuple(picture.commands.get(rollout.rollout_id, ())),
            asked=asked,
            deltas_until=deltas_until(connection, rollout) if _is_new(picture, rollout.rollout_id) else None,
            time_zones=picture.time_zones,
            status_interval_s=self._status_interval_s,
            listening_since=listening_since,
        )

    def _variants(
        self, connection: sa.Connection, rollout: facts.Rollout, picture: _Picture
    ) -> dict[tuple[str, str], facts.VariantFact]:
        """Everything of a version that could be packed."""
        columns = tables.variants.c
        query = sa.select(
            columns.profile,
            columns.variant_id,
            columns.verdict,
            columns.manifest_sha256,
            columns.manifest_bytes,
            columns.document["rank"].as_integer().label("rank"),
            columns.document["caveat"].as_string().label("caveat"),
        ).where(
            columns.model == rollout.model, columns.version == rollout.version, columns.manifest_sha256.is_not(None)
        )
        rows = connection.execute(query).all()
        deltas = deltas_to(connection, (row.manifest_sha256 for row in rows))
        return {
            (row.profile, row.variant_id): facts.VariantFact(
                variant_id=row.variant_id,
                manifest_sha256=row.manifest_sha256,
                manifest_bytes=row.manifest_bytes or 0,
                unproven=row.verdict == Verdict.UNPROVEN,
                rank=row.rank,
                caveat=row.caveat or "",
                model_file_sha256=self._model_file_sha256(row.manifest_sha256),
                limits=picture.limits.get(row.profile, Limits()),
                deltas=deltas.get(row.manifest_sha256, ()),
            )
            for row in rows
        }


def _is_open(picture: _Picture, rollout_id: str) -> bool:
    standing = picture.standings.get(rollout_id)
    if standing is None or standing.state in OPEN_STATES:
        return True
    return any(command.command_id > standing.last_command_id for command in picture.commands.get(rollout_id, ()))


def _is_new(picture: _Picture, rollout_id: str) -> bool:
    """Whether its first wave is still to be opened."""
    standing = picture.standings.get(rollout_id)
    return standing is None or (standing.state in OPEN_STATES and standing.wave < 0)
