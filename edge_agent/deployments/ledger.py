"""The core's memory: records, slots, and the actions of the step at hand. A change is persisted before the next act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_agent.deployments.events import Action, Moment, Persist, Report
from edge_agent.deployments.records import UNFINISHED, Accepted, DeploymentRecord, ModelSlot, Snapshot
from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.states import DeploymentState, Reason, may_follow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.deployments.records import Deferral

DETAIL_LIMIT = 512


class IllegalTransitionError(EdgeAgentError):
    """The core tried a step that the table does not have: a fault of the agent itself."""

    code = "illegal_transition"


class Ledger:
    """Deployments and slots in memory, with what has changed since the last `Persist`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.accepted = snapshot.accepted
        self.records = {record.deployment_id: record for record in snapshot.records}
        self.slots = {slot.model: slot for slot in snapshot.slots}
        self.deferrals = {deferral.token: deferral for deferral in snapshot.deferrals}
        self.moment = Moment(0.0)
        self._actions: list[Action] = []
        self._dirty_records: dict[str, None] = {}
        self._dirty_slots: dict[str, None] = {}
        self._dirty_accepted = False
        self._dirty_deferrals = False
        self._report = False

    def act(self, action: Action) -> None:
        """Ask for an action, after everything that has changed so far is on disk."""
        self._flush()
        self._actions.append(action)

    def take(self) -> list[Action]:
        """The actions of this step, complete."""
        self._flush()
        actions, self._actions = self._actions, []
        if self._report:
            actions.append(Report())
        self._report = False
        return actions

    def report(self) -> None:
        """The registry should hear of this step."""
        self._report = True

    def accept(self, accepted: Accepted) -> None:
        """Remember the highest desired state."""
        self.accepted = accepted
        self._dirty_accepted = True
        self._report = True

    def put(self, record: DeploymentRecord) -> None:
        """Add or replace a record."""
        self.records[record.deployment_id] = record
        self._dirty_records[record.deployment_id] = None
        self._report = True

    def forget(self, deployment_id: str) -> None:
        """Drop a record."""
        if self.records.pop(deployment_id, None) is not None:
            self._dirty_records[deployment_id] = None

    def set_slot(self, slot: ModelSlot | None, *, model: str) -> None:
        """Set or clear a model's slot."""
        if slot is None:
            self.slots.pop(model, None)
        else:
            self.slots[model] = slot
        self._dirty_slots[model] = None

    def set_deferrals(self, deferrals: dict[str, Deferral]) -> None:
        """Replace what apps have asked for, by token."""
        self.deferrals = deferrals
        self._dirty_deferrals = True

    def move(
        self,
        record: DeploymentRecord,
        state: DeploymentState,
        *,
        reason: Reason = Reason.NONE,
        detail: str = "",
        **changes: Any,  # noqa: ANN401  fields of the record, checked by `model_validate` when it is read back
    ) -> DeploymentRecord:
        """Bring a record into a state.

        Raises:
            IllegalTransitionError: the table of states does not have this step.
        """
        if record.state is not state and not may_follow(record.state, state):
            raise IllegalTransitionError(f"deployment {record.deployment_id}: {record.state} -> {state} is no step")
        update = {"state": state, "reason": reason, "detail": detail[:DETAIL_LIMIT], "changed_at": self.moment.unix_s}
        moved = record.model_copy(update=update | changes)
        self.put(moved)
        return moved

    def by_manifest(self, manifest_sha256: str) -> Iterator[DeploymentRecord]:
        """The unfinished deployments that use a manifest."""
        for record in list(self.records.values()):
            if record.wanted.manifest_sha256 == manifest_sha256 and record.state in UNFINISHED:
                yield record

    def slot_of(self, record: DeploymentRecord) -> ModelSlot:
        """The slot of a record's model."""
        return self.slots.get(record.model, ModelSlot(model=record.model))

    def is_active(self, record: DeploymentRecord) -> bool:
        """Whether this deployment answers for its model."""
        return self.slot_of(record).active == record.deployment_id

    def snapshot(self) -> Snapshot:
        """What is in memory now."""
        return Snapshot(
            accepted=self.accepted,
            records=tuple(self.records.values()),
            slots=tuple(self.slots.values()),
            deferrals=tuple(self.deferrals.values()),
        )

    def _flush(self) -> None:
        if not (self._dirty_records or self._dirty_slots or self._dirty_accepted or self._dirty_deferrals):
            return
        self._actions.append(
            Persist(
                records=tuple(self.records[name] for name in self._dirty_records if name in self.records),
                forgotten=tuple(name for name in self._dirty_records if name not in self.records),
                slots=tuple(self.slots[model] for model in self._dirty_slots if model in self.slots),
                emptied=tuple(model for model in self._dirty_slots if model not in self.slots),
                accepted=self.accepted if self._dirty_accepted else None,
                deferrals=tuple(self.deferrals.values()) if self._dirty_deferrals else None,
            )
        )
        self._dirty_records, self._dirty_slots, self._dirty_accepted = {}, {}, False
        self._dirty_deferrals = False
