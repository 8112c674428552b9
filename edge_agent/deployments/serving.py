"""From `staged` to `active` and onwards: self-test, swap, crashes, falling back. No IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_agent.deployments.deferring import Deferrals
from edge_agent.deployments.events import Activate, Deactivate, Leave, Shadow, StartRunner, StopRunner
from edge_agent.deployments.records import FINAL_REASONS, TO_TEST, ModelSlot
from edge_agent.deployments.restarts import Restarts
from edge_agent.deployments.running import Phase, Running
from edge_agent.deployments.shadowing import NO_ROOM, REFUSING, Shadows, skipped, why_not
from edge_agent.protocol.profile import Limits
from edge_agent.protocol.shadow import ShadowOutcome, ShadowReport
from edge_agent.protocol.states import DeploymentState, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.deployments.acquire import Acquisition, Rules
    from edge_agent.deployments.records import DeploymentRecord
    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.protocol.messages import SelfTestReport


class Serving:
    """Keeps a proven runner for every model."""

    def __init__(self, acquisition: Acquisition, *, rules: Rules, chance: Callable[[], float]) -> None:
        self.ledger = acquisition.ledger
        self.running: dict[str, Running] = {}
        self.restarts = Restarts(self.ledger, rules=rules, chance=chance)
        self._acquisition = acquisition
        self._rules = rules
        self.shadows = Shadows(self.ledger)
        self.deferrals = Deferrals(self.ledger)
        self._room: dict[str, str] = {}  # a deployment under test -> the active one that was stopped to make room

    def advance(self) -> None:
        """Start what should run: the active deployment of each model, then one self-test at a time."""
        for slot in list(self.ledger.slots.values()):
            self._ensure_active(slot)
        for record in list(self.ledger.records.values()):
            if record.state is DeploymentState.SHADOWING and record.deployment_id in self.running:
                self._conclude(record)
        if any(run.phase is Phase.STARTING for run in self.running.values()):
            return  # two at once would spoil each other's latency and memory
        if any(deployment_id not in self.running for deployment_id in self._room):
            return
        for record in list(self.ledger.records.values()):
            waiting = record.state in TO_TEST and not self.ledger.is_active(record)
            if not waiting or record.deployment_id in self.running or self._lies_ready(record):
                continue
            if self.deferrals.holds(record):
                continue  # a self-test takes time from the app, too, and may need the room of what answers
            if self._begin_test(self.ledger.records[record.deployment_id]):
                return

    def proven(self, deployment_id: str, report: SelfTestReport) -> None:
        """A runner has passed its self-test."""
        run, record = self.running.get(deployment_id), self.ledger.records.get(deployment_id)
        if run is None or record is None or run.phase is not Phase.STARTING:
            return
        run.phase = Phase.PROVEN
        self.restarts.started(deployment_id)
        interrupted = self._room.pop(deployment_id, None) is not None
        if run.ahead:
            self._lay_ready(record, "proven here", self_test=report, tests=record.tests - 1)
            self._stop(deployment_id, Leave.NOTHING)
        elif record.state is DeploymentState.SELF_TESTING:
            # what had to stop for it answers nobody any more: to wait would make that longer
            self._swap_or_shadow(record, report, no_shadow=run.no_shadow, at_once=interrupted)
        elif self.ledger.is_active(record):
            if record.state is DeploymentState.ALREADY_INSTALLED:
                record = self.ledger.move(record, DeploymentState.ACTIVE, self_test=record.self_test or report)
            self._activate(record, retire=None)

    def refused(self, deployment_id: str, reason: Reason, detail: str, report: SelfTestReport | None) -> None:
        """A runner has said why it can't serve, and has left."""
        if reason not in FINAL_REASONS:
            self.gone(deployment_id, reason, detail)
            return
        run = self._forget(deployment_id)
        record = self.ledger.records.get(deployment_id)
        if run is None or record is None or run.phase is Phase.LEAVING:
            return
        rotten = reason is Reason.DIGEST_MISMATCH  # it was verified when it was installed: the disk has lost it since
        if record.state is DeploymentState.SELF_TESTING:
            again = Reason.INTERNAL if rotten else reason
            self._acquisition.fail(record, again, detail, self_test=report)
        elif self.ledger.is_active(record) and rotten:
            self._fall_back(record, reason, detail)
        elif self.ledger.is_active(record):  # proven here before: a moment without memory must not roll it back
            self._failed_again(record, reason, "refused", detail)
        if rotten:
            self._acquisition.discard(record.wanted.manifest_sha256)

    def not_started(self, deployment_id: str, detail: str) -> None:
        """There was no room for a runner: that says nothing of the variant, which waits for better times."""
        run = self._forget(deployment_id)
        record = self.ledger.records.get(deployment_id)
        if run is None or record is None:
            return
        if record.state is DeploymentState.SELF_TESTING:
            record = record.model_copy(update={"tests": record.tests - 1})
            self._acquisition.fail(record, Reason.INTERNAL, detail)
        elif self.ledger.is_active(record):
            self.restarts.not_started(deployment_id)

    def gone(self, deployment_id: str, reason: Reason, detail: str) -> None:
        """A runner has left, asked or not."""
        run = self._forget(deployment_id)
        record = self.ledger.records.get(deployment_id)
        if run is None or record is None:
            return
        if run.inferences:
            record = record.model_copy(update={"inferences": record.inferences + run.inferences})
            self.ledger.put(record)
        self.ledger.report()
        if run.phase is Phase.LEAVING:
            self._room_made(deployment_id)
        elif record.state is DeploymentState.SELF_TESTING:
            final = record.tests >= self._rules.self_test_limit
            self._acquisition.fail(record, reason, detail, final=final)
        elif record.state is DeploymentState.SHADOWING:
            self._shadow_lost(record, reason, detail)
        elif self.ledger.is_active(record):
            self._failed_again(record, Reason.CRASH_LOOP, "ended", detail)

    def beat(self, deployment_id: str, inferences: int) -> None:
        """A sign of life; the first inference is news."""
        run = self.running.get(deployment_id)
        if run is None:
            return
        if inferences and not run.inferences:
            self.ledger.report()
        run.inferences = inferences

    def compared(self, deployment_id: str, report: ShadowReport) -> None:
        """What a shadow has found so far; the first of it is news, the rest waits for the next report."""
        if self.shadows.tell(deployment_id, report):
            self.ledger.report()

    def serves(self, deployment_id: str) -> None:
        """A runner accepts connections."""
        run = self.running.get(deployment_id)
        if run is not None and run.phase is Phase.PROVEN:
            run.serving = True
            self.ledger.report()

    def drop(self, record: DeploymentRecord, *, after: Leave) -> None:
        """Nobody wants this deployment any more."""
        deployment_id = record.deployment_id
        self.restarts.forget(deployment_id)
        self._room.pop(deployment_id, None)
        self.shadows.forget(deployment_id)
        self.deferrals.forget(deployment_id)
        self._stop(deployment_id, after)

    def _manifest(self, record: DeploymentRecord) -> VariantManifest | None:
        return self._acquisition.installed.get(record.wanted.manifest_sha256)

    def _ensure_active(self, slot: ModelSlot) -> None:
        deployment_id = slot.active
        if deployment_id is None or deployment_id in self.restarts.at or deployment_id in self._room.values():
            return
        run = self.running.get(deployment_id)
        if run is not None:
            if run.phase is Phase.LEAVING and not run.hurried:  # wanted again: its last connections must not hold it up
                run.hurried = True
                self.ledger.act(StopRunner(deployment_id, Leave.REQUESTS))
            return
        record = self.ledger.records.get(deployment_id)
        if record is None:
            return
        manifest = self._manifest(record)
        if manifest is None:
            self._fall_back(record, Reason.INTERNAL, "its files are gone from the disk")
            return
        self.running[deployment_id] = Running()
        sha256 = record.wanted.manifest_sha256
        # proven here before: another measurement at a busy moment must not take a model from its clients
        self.ledger.act(StartRunner(deployment_id, sha256, manifest, Limits(), proving=False))

    def _begin_test(self, record: DeploymentRecord) -> bool:
        manifest = self._manifest(record)
        if manifest is None:
            self._acquisition.fail(record, Reason.INTERNAL, "its files are gone from the disk")
            return False
        if record.tests >= self._rules.self_test_limit:
            detail = f"{record.tests} self-tests began and none ended"
            self._acquisition.fail(record, Reason.RUNNER_CRASHED, detail, final=True)
            return False
        begun = record.state is not DeploymentState.SHADOWING  # the last one of a shadow has ended well
        tests, detail = record.tests + begun, record.overridden
        record = self.ledger.move(record, DeploymentState.SELF_TESTING, tests=tests, detail=detail)
        old = self._in_the_way(record, manifest)
        if old is None:
            self._start_test(record, manifest)
        else:
            self._room[record.deployment_id] = old
            self._stop(old, Leave.REQUESTS)
        return True

    def _lies_ready(self, record: DeploymentRecord) -> bool:
        """Whether nothing is left to do before it is activated; it is proven ahead where nobody is put out by that."""
        manifest = self._manifest(record)
        if not record.held or manifest is None:
            return False
        if record.reason is not Reason.HELD and self._in_the_way(record, manifest) is not None:
            self._lay_ready(record, "RAM holds no second runner, so it is proven when it is activated")
        return self.ledger.records[record.deployment_id].reason is Reason.HELD

    def _lay_ready(self, record: DeploymentRecord, detail: str, **changes: Any) -> None:  # noqa: ANN401  see `move`
        """It lies ready; one that was released meanwhile is tested once more, and swapped in."""
        reason, detail = (Reason.HELD, detail) if record.held else (Reason.NONE, "")
        self.ledger.move(record, DeploymentState.STAGED, reason=reason, detail=detail, **changes)

    def _start_test(self, record: DeploymentRecord, manifest: VariantManifest) -> None:
        sha256, limits, plan = record.wanted.manifest_sha256, record.wanted.limits, record.wanted.shadow
        no_shadow = "" if plan is None else self._why_no_shadow(record, manifest)
        plan = None if no_shadow or record.held else plan
        self.running[record.deployment_id] = Running(no_shadow=no_shadow, ahead=record.held)
        self.ledger.act(StartRunner(record.deployment_id, sha256, manifest, limits, proving=True, shadow=plan))

    def _why_no_shadow(self, record: DeploymentRecord, manifest: VariantManifest) -> str:
        if record.deployment_id in self._room:
            return NO_ROOM
        old = self.ledger.records.get(self.ledger.slot_of(record).active or "")
        return why_not(record, manifest, None if old is None else self._manifest(old))

    def _swap_or_shadow(
        self, record: DeploymentRecord, report: SelfTestReport, *, no_shadow: str, at_once: bool
    ) -> None:
        """Let a proven variant answer, or run beside the active one first if that is asked for and can be."""
        plan = record.wanted.shadow
        if plan is None or no_shadow:
            if not at_once and self.deferrals.holds(record):  # asked for during the self-test, which ended well
                record = self.ledger.records[record.deployment_id]
                self.ledger.put(record.model_copy(update={"tests": record.tests - 1}))
                self._stop(record.deployment_id, Leave.NOTHING)
                return
            self._swap(record, report, shadow=skipped(no_shadow) if no_shadow else None)
            return
        self.shadows.begin(record.deployment_id, plan)
        begun = record.shadows + 1
        self.ledger.move(record, DeploymentState.SHADOWING, self_test=report, shadow=ShadowReport(), shadows=begun)
        self.ledger.act(Shadow(record.deployment_id))

    def _conclude(self, record: DeploymentRecord) -> None:
        """End a shadow if enough is known of it, or if nothing answers any more that it could wait for."""
        found = self.shadows.verdict(record)
        if found is None and self.ledger.slot_of(record).active is None:
            known = self.shadows.report_of(record) or ShadowReport()
            detail = "shadow: the active version has failed for good, so this one answers"
            found = known.model_copy(update={"outcome": ShadowOutcome.INCONCLUSIVE, "detail": detail})
        if found is None:
            return
        reason = REFUSING.get(found.outcome)
        if reason is None and self.deferrals.holds(record, state=DeploymentState.SHADOWING):
            return
        self.shadows.forget(record.deployment_id)
        if reason is None and record.self_test is not None:
            self._swap(record, record.self_test, shadow=found)
            return
        self.ledger.move(
            record, DeploymentState.REJECTED, reason=reason or Reason.INTERNAL, detail=found.detail, shadow=found
        )
        self._stop(record.deployment_id, Leave.NOTHING)

    def _shadow_lost(self, record: DeploymentRecord, reason: Reason, detail: str) -> None:
        """A shadow's runner has ended by itself: nobody was without an answer, but it died of something."""
        known = self.shadows.report_of(record) or ShadowReport()
        self.shadows.forget(record.deployment_id)
        detail = f"while it ran as a shadow: {detail}"
        record = record.model_copy(
            update={"shadow": known.model_copy(update={"outcome": ShadowOutcome.FAILED, "detail": detail})}
        )
        final = record.tests >= self._rules.self_test_limit
        self._acquisition.fail(record, reason, detail, final=final)

    def _stop(self, deployment_id: str, after: Leave) -> None:
        run = self.running.get(deployment_id)
        if run is not None and run.phase is not Phase.LEAVING:
            self._leave(run)
            self.ledger.act(StopRunner(deployment_id, after))

    def _in_the_way(self, record: DeploymentRecord, manifest: VariantManifest) -> str | None:
        """What answers for the model now, where RAM does not hold both."""
        old, available = self.ledger.slot_of(record).active, self.ledger.moment.memory_available_bytes
        if available is None or old not in self.running:
            return None
        needed = self._rules.runner_base_bytes[manifest.runtime] + 2 * manifest.model_file.size_bytes
        return None if available >= needed + self._rules.memory_reserve_bytes else old

    def _room_made(self, old: str) -> None:
        for deployment_id in [new for new, stopped in self._room.items() if stopped == old]:
            record = self.ledger.records.get(deployment_id)
            manifest = None if record is None else self._manifest(record)
            if record is None or manifest is None or deployment_id in self.running:
                continue
            self._start_test(record, manifest)

    def _swap(self, record: DeploymentRecord, report: SelfTestReport, *, shadow: ShadowReport | None = None) -> None:
        slot = self.ledger.slot_of(record)
        old = self.ledger.records.get(slot.active) if slot.active else None
        previous = slot.previous
        if old is not None:
            self.ledger.move(old, DeploymentState.SUPERSEDED)
            if old.wanted.manifest_sha256 != record.wanted.manifest_sha256 or previous == record.deployment_id:
                previous = old.deployment_id
        if previous == record.deployment_id:
            previous = None
        detail = self.ledger.records[record.deployment_id].overridden
        record = self.ledger.move(
            record,
            DeploymentState.ACTIVE,
            detail=detail,
            self_test=report,
            shadow=shadow,
            shadows=0,
            deferred_at=None,
            deferred_by=None,
            overridden="",
        )
        self.deferrals.forget(record.deployment_id)
        slot = ModelSlot(model=record.model, active=record.deployment_id, previous=previous)
        self.ledger.set_slot(slot, model=record.model)
        retire = None
        if old is not None:
            self.restarts.answers_no_more(old.deployment_id)
            run = self.running.get(old.deployment_id)
            if run is not None and run.phase is not Phase.LEAVING:
                self._leave(run)
                retire = old.deployment_id
        self._activate(record, retire=retire)
        self._acquisition.collect()

    def _activate(self, record: DeploymentRecord, *, retire: str | None) -> None:
        manifest = self._manifest(record)
        if manifest is not None:
            sha256 = record.wanted.manifest_sha256
            self.ledger.act(Activate(record.deployment_id, sha256, manifest, retire))

    def _failed_again(self, record: DeploymentRecord, reason: Reason, what: str, detail: str) -> None:
        """The active variant's runner ended or refused: started again after a while, until that is a loop.

        Args:
            record: of the active deployment.
            reason: why it is given up once it fails too often.
            what: what its runner did.
            detail: how.
        """
        times = self.restarts.crashed(record.deployment_id)
        if times >= self._rules.crash_limit:
            self._fall_back(record, reason, f"its runner {what} {times} times: {detail}")
            return
        self.restarts.wait(record.deployment_id, times)

    def _fall_back(self, record: DeploymentRecord, reason: Reason, detail: str) -> None:
        """The active variant is no good: the one before it answers again, without any network."""
        slot = self.ledger.slot_of(record)
        previous = self.ledger.records.get(slot.previous) if slot.previous else None
        if previous is not None and (
            previous.state is not DeploymentState.SUPERSEDED or self._manifest(previous) is None
        ):
            previous = None
        active = record.state is DeploymentState.ACTIVE
        state = DeploymentState.ROLLED_BACK if active else DeploymentState.REJECTED
        if previous is None:
            detail = f"{detail}; there is no variant to fall back to"
        self.ledger.move(record, state, reason=reason, detail=detail)
        self.restarts.answers_no_more(record.deployment_id)
        if previous is None:
            self.ledger.set_slot(None, model=record.model)
            self.ledger.act(Deactivate(record.model))
            return
        self.ledger.move(previous, DeploymentState.ALREADY_INSTALLED)
        slot = ModelSlot(model=record.model, active=previous.deployment_id)
        self.ledger.set_slot(slot, model=record.model)
        self._ensure_active(slot)

    def _leave(self, run: Running) -> None:
        run.phase, run.serving = Phase.LEAVING, False
        self.ledger.report()

    def _forget(self, deployment_id: str) -> Running | None:
        run = self.running.pop(deployment_id, None)
        if run is not None and run.phase is not Phase.LEAVING:
            self._room.pop(deployment_id, None)
        return run
