"""The agent's core: a pure state machine. Events in, actions out; no IO, no clock, no randomness of its own.

The same class runs in the supervisor and in the fleet simulator. Whoever drives it carries the actions out in their
order and tells it what came of them. After a restart it is built from what `Persist` wrote, and goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from edge_agent.deployments import events as ev
from edge_agent.deployments.acquire import Acquisition, Rules
from edge_agent.deployments.ledger import Ledger
from edge_agent.deployments.records import FETCHING, UNFINISHED, Accepted, DeploymentRecord, ModelSlot, Snapshot
from edge_agent.deployments.serving import Serving
from edge_agent.protocol.messages import DeploymentStatus, Desired, DesiredDeployment
from edge_agent.protocol.states import DeploymentState, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edge_agent.deployments.records import Deferral
    from edge_agent.protocol.manifest import VariantManifest


_NO_SLOT = ModelSlot(model="none")


def _first_of_model(deployments: Iterable[DesiredDeployment]) -> dict[str, DesiredDeployment]:
    first: dict[str, DesiredDeployment] = {}
    for wanted in deployments:
        first.setdefault(wanted.model, wanted)
    return first


class DeviceCore:
    """Decides what a device does next.

    Args:
        snapshot: what the last `Persist` left.
        installed: manifests of the variants on disk, by the sha256 of the manifest.
        rules: the numbers that decide.
        chance: uniform numbers in [0, 1), for jitter.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        installed: Mapping[str, VariantManifest],
        rules: Rules,
        chance: Callable[[], float],
    ) -> None:
        self._ledger = Ledger(snapshot)
        self._acquisition = Acquisition(self._ledger, installed=dict(installed), rules=rules, chance=chance)
        self._serving = Serving(self._acquisition, rules=rules, chance=chance)
        self.ignored_desired = 0

    @property
    def accepted(self) -> Accepted:
        """The highest desired state that was accepted."""
        return self._ledger.accepted

    @property
    def next_due_s(self) -> float | None:
        """When a `Tick` is wanted, on the monotonic clock; None: nothing waits."""
        serving = self._serving
        due_s = [*self._acquisition.retry_at.values(), *serving.restarts.at.values(), *serving.shadows.until.values()]
        return min([*due_s, *serving.deferrals.due_s], default=None)

    def start(self, moment: ev.Moment) -> list[ev.Action]:
        """Take up everything where the last process left it."""
        self._ledger.moment = moment
        self._ledger.act(ev.SetWindow(self.accepted.telemetry_window_s))
        self._serving.deferrals.start()
        self._serving.advance()  # first of all those that answered before
        for record in list(self._ledger.records.values()):
            if record.state in FETCHING:
                self._acquisition.begin(record)
            elif record.state is DeploymentState.FAILED:
                self._acquisition.schedule_retry(record)
        self._acquisition.collect()
        self._serving.advance()
        return self._ledger.take()

    def handle(self, event: ev.Event, moment: ev.Moment) -> list[ev.Action]:
        """One event, and the actions that follow from it, in order."""
        self._ledger.moment = moment
        match event:
            case ev.DesiredReceived():
                self._desired(event.desired)
            case ev.Tick():
                self._acquisition.retry_due()
                self._serving.restarts.pass_due()
                self._serving.shadows.pass_deadlines()
                self._serving.deferrals.end_due()
            case ev.DeferAsked():
                self._serving.deferrals.ask(event.deferral)
            case ev.DeferEnded():
                self._serving.deferrals.release(event.token)
            case ev.RunnerBeat():
                self._serving.beat(event.deployment_id, event.inferences)
                return self._ledger.take()
            case (
                ev.ManifestArrived()
                | ev.ManifestFailed()
                | ev.TransferDone()
                | ev.TransferFailed()
                | ev.Unpacked()
                | ev.UnpackFailed()
            ):
                self._acquire(event)
            case _:
                self._runner(event)
        self._serving.advance()
        return self._ledger.take()

    def statuses(self, progress: Mapping[str, ev.Progress] | None = None) -> tuple[DeploymentStatus, ...]:
        """What the registry is told of each deployment.

        Args:
            progress: transfers under way, by the sha256 of their manifests.
        """
        under_way = progress or {}
        return tuple(
            self._status(record, under_way.get(record.wanted.manifest_sha256))
            for record in self._ledger.records.values()
        )

    def knows(self, deployment_id: str) -> bool:
        """Whether this device has such a deployment."""
        return deployment_id in self._ledger.records

    def deferral(self, token: str) -> Deferral | None:
        """What an app has asked for, while it holds."""
        return self._ledger.deferrals.get(token)

    @property
    def deferrals(self) -> tuple[Deferral, ...]:
        """All that hold."""
        return tuple(self._ledger.deferrals.values())

    def active_models(self) -> frozenset[str]:
        """The models for which a deployment answers, or will once its runner is up."""
        return frozenset(slot.model for slot in self._ledger.slots.values() if slot.active is not None)

    def model_runners(self) -> dict[str, str]:
        """The deployment that answers for each model now."""
        return {
            slot.model: slot.active
            for slot in self._ledger.slots.values()
            if slot.active is not None and slot.active in self._serving.running
        }

    def _status(self, record: DeploymentRecord, progress: ev.Progress | None) -> DeploymentStatus:
        if record.state is not DeploymentState.DOWNLOADING:
            whole = record.file_sha256 is not None or record.state is DeploymentState.VERIFYING
            progress = ev.Progress(record.bytes_total if whole else 0, 0)
        elif progress is None:
            progress = ev.Progress(0, 0)
        run = self._serving.running.get(record.deployment_id)
        wanted = record.wanted
        return DeploymentStatus(
            deployment_id=wanted.deployment_id,
            model=wanted.model,
            version=wanted.version,
            variant_id=wanted.variant_id,
            state=record.state,
            reason=record.reason,
            detail=record.detail or record.delta_detail,
            attempt=record.attempt,
            bytes_done=progress.done_bytes,
            bytes_total=record.bytes_total,
            bytes_received=record.bytes_received + progress.received_bytes,
            fetched=record.fetched,
            self_test=record.self_test,
            shadow=self._serving.shadows.report_of(record),
            serving=run is not None and run.serving,
            file_sha256=record.file_sha256,
            inferences=record.inferences + (run.inferences if run is not None else 0),
            changed_at=record.changed_at,
        )

    def _acquire(
        self,
        event: ev.ManifestArrived
        | ev.ManifestFailed
        | ev.TransferDone
        | ev.TransferFailed
        | ev.Unpacked
        | ev.UnpackFailed,
    ) -> None:
        acquisition = self._acquisition
        match event:
            case ev.ManifestArrived():
                acquisition.manifest_arrived(event.manifest_sha256, event.manifest)
            case ev.ManifestFailed():
                acquisition.manifest_failed(event.manifest_sha256, event.reason, event.detail, again=event.again)
            case ev.TransferDone():
                acquisition.transfer_done(event.object_sha256, event.bytes_received)
            case ev.TransferFailed():
                acquisition.transfer_failed(event)
            case ev.Unpacked():
                acquisition.unpacked(event.manifest_sha256)
            case ev.UnpackFailed():
                acquisition.unpack_failed(event.manifest_sha256, event.reason, event.detail)
            case _:
                assert_never(event)

    def _runner(
        self,
        event: ev.RunnerProven
        | ev.RunnerServing
        | ev.RunnerRefused
        | ev.RunnerNotStarted
        | ev.RunnerExited
        | ev.RunnerHung
        | ev.ShadowCompared,
    ) -> None:
        serving = self._serving
        match event:
            case ev.RunnerProven():
                serving.proven(event.deployment_id, event.report)
            case ev.RunnerServing():
                serving.serves(event.deployment_id)
            case ev.RunnerRefused():
                serving.refused(event.deployment_id, event.reason, event.detail, event.report)
            case ev.RunnerNotStarted():
                serving.not_started(event.deployment_id, event.detail)
            case ev.RunnerExited():
                serving.gone(event.deployment_id, Reason.RUNNER_CRASHED, event.detail)
            case ev.RunnerHung():
                serving.gone(event.deployment_id, Reason.RUNNER_HUNG, event.detail)
            case ev.ShadowCompared():
                serving.compared(event.deployment_id, event.report)
            case _:
                assert_never(event)

    def _desired(self, desired: Desired) -> None:
        """Accept a later desired state; the same or an older one changes nothing."""
        if desired.order <= self.accepted.order:
            self.ignored_desired += 1
            return
        first_of_model = _first_of_model(desired.deployments)
        to_run = {wanted.deployment_id: wanted for wanted in first_of_model.values()}
        to_hold = self._to_hold(desired, to_run)
        wanted_ids = to_run | to_hold
        window_s = self.accepted.telemetry_window_s
        ledger = self._ledger
        ledger.accept(
            Accepted(
                epoch=desired.epoch,
                generation=desired.generation,
                status_interval_s=desired.status_interval_s,
                telemetry_window_s=desired.telemetry_window_s,
                wanted=tuple(wanted_ids),
            )
        )
        self._forget_the_past()
        fresh = [wanted for name, wanted in wanted_ids.items() if self._is_fresh(wanted, hold=name in to_hold)]
        dropped = [ledger.records[w.deployment_id] for w in fresh if w.deployment_id in ledger.records]
        # all in the transaction of the acceptance, before any act: a crash can't come between
        for wanted in fresh:
            held = wanted.deployment_id in to_hold
            ledger.put(DeploymentRecord(wanted=wanted, held=held, changed_at=ledger.moment.unix_s))
        self._release(to_run)
        dropped += self._supersede(set(wanted_ids), models=set(first_of_model))
        unwanted_models = [model for model in ledger.slots if model not in first_of_model]
        for model in unwanted_models:
            ledger.set_slot(None, model=model)
        for model in unwanted_models:
            ledger.act(ev.Deactivate(model))
        for record in dropped:
            self._acquisition.drop(record)
            after = ev.Leave.NOTHING if record.state in UNFINISHED else ev.Leave.CONNECTIONS
            self._serving.drop(record, after=after)
        if desired.telemetry_window_s != window_s:
            ledger.act(ev.SetWindow(desired.telemetry_window_s))
        for wanted in fresh:
            self._acquisition.begin(ledger.records[wanted.deployment_id])
        self._acquisition.take_up_again()
        self._acquisition.collect()

    def _to_hold(self, desired: Desired, to_run: Mapping[str, DesiredDeployment]) -> dict[str, DesiredDeployment]:
        """What shall lie ready, by its id; what answers already, or is wanted to, can't."""
        return {
            wanted.deployment_id: wanted
            for wanted in _first_of_model(desired.staged).values()
            if wanted.deployment_id not in to_run
            and self._ledger.slots.get(wanted.model, _NO_SLOT).active != wanted.deployment_id
        }

    def _is_fresh(self, wanted: DesiredDeployment, *, hold: bool) -> bool:
        """Whether a wanted deployment begins at the beginning."""
        record = self._ledger.records.get(wanted.deployment_id)
        if record is None or record.state is DeploymentState.SUPERSEDED:
            return True
        if self._ledger.is_active(record):
            return False
        if record.held and not hold:  # what is said of it may have changed since, but its files are the same
            return record.wanted.manifest_sha256 != wanted.manifest_sha256
        return record.wanted != wanted or record.held != hold

    def _release(self, to_run: Mapping[str, DesiredDeployment]) -> None:
        """What lay ready shall answer now, from where it stands."""
        for name, wanted in to_run.items():
            record = self._ledger.records[name]
            if not record.held:
                continue
            self._serving.deferrals.forget(name)  # its time to wait for apps begins now
            changes: dict[str, Any] = {"wanted": wanted, "held": False, "deferred_at": None, "deferred_by": None}
            if record.reason is Reason.HELD:
                self._ledger.move(record, DeploymentState.STAGED, **changes)
            else:
                self._ledger.put(record.model_copy(update=changes))

    def _forget_the_past(self) -> None:
        """Drop records that were superseded before and that nobody could fall back to."""
        kept = {name for slot in self._ledger.slots.values() for name in (slot.active, slot.previous)}
        for record in list(self._ledger.records.values()):
            name = record.deployment_id
            if record.state is DeploymentState.SUPERSEDED and name not in kept and name not in self._serving.running:
                self._ledger.forget(name)

    def _supersede(self, wanted_ids: set[str], *, models: set[str]) -> list[DeploymentRecord]:
        """Bring what is wanted no more to its end; an active one answers until its successor is proven."""
        ended = []
        for record in list(self._ledger.records.values()):
            if record.deployment_id in wanted_ids or record.state is DeploymentState.SUPERSEDED:
                continue
            if self._ledger.is_active(record) and record.model in models:
                continue
            self._ledger.move(record, DeploymentState.SUPERSEDED)
            ended.append(record)
        return ended
