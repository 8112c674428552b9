"""Apps that ask the device to wait before it swaps, and for how long it does. No IO.

A deferral ends by its own time, whoever dies meanwhile. Intervals are counted on the monotonic clock; over a restart
the time of day tells how much is left, and never makes it more than was asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.states import DeploymentState, Reason

if TYPE_CHECKING:
    from edge_agent.deployments.ledger import Ledger
    from edge_agent.deployments.records import Deferral, DeploymentRecord

MOST_DEFERRALS: Final = 64  # at once: an app that forgets to renew the one it has must not fill the disk


class Deferrals:
    """The deferrals that hold, and the swaps that wait for them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._until: dict[str, float] = {}  # by token, on the monotonic clock
        self._limit_at: dict[str, float] = {}  # by deployment: how long its plan lets it wait

    @property
    def due_s(self) -> list[float]:
        """When something ends, on the monotonic clock."""
        now_s = self._ledger.moment.now_s
        return [*self._until.values(), *(at_s for at_s in self._limit_at.values() if at_s > now_s)]

    def start(self) -> None:
        """Count on what was asked for before a restart."""
        moment = self._ledger.moment
        for deferral in self._ledger.deferrals.values():
            left_s = min(deferral.for_s, max(0.0, deferral.until - moment.unix_s))
            self._until[deferral.token] = moment.now_s + left_s
        self.end_due()

    def ask(self, deferral: Deferral) -> None:
        """Hold from now on; a token that is known holds anew."""
        known = self._ledger.deferrals
        if deferral.token not in known and len(known) >= MOST_DEFERRALS:
            return
        self._until[deferral.token] = self._ledger.moment.now_s + deferral.for_s
        self._ledger.set_deferrals({**known, deferral.token: deferral})

    def release(self, token: str) -> None:
        """End before its time; a token that nobody has changes nothing."""
        self._end({token})

    def end_due(self) -> None:
        """End those whose time is over."""
        now_s = self._ledger.moment.now_s
        self._end({token for token, at_s in self._until.items() if at_s <= now_s})

    def forget(self, deployment_id: str) -> None:
        """A deployment waits no more."""
        self._limit_at.pop(deployment_id, None)

    def holds(self, record: DeploymentRecord, *, state: DeploymentState = DeploymentState.STAGED) -> bool:
        """Whether the swap to this deployment waits; if so it is written down, in this state, with the reason.

        Nothing waits where nothing answers yet that an app could be using, nor where the plan gives no time for it:
        so it is with what is brought back after a bad version.
        """
        plan_s = record.wanted.max_defer_s
        last = self._last_for(record.model)
        if last is None or not plan_s or self._ledger.slot_of(record).active is None:
            return False
        limit_at_s = self._limit_of(record)
        if limit_at_s <= self._ledger.moment.now_s:
            detail = f"did not wait longer than {plan_s:g} s, the rollout's limit, for an app: {last.reason}"
            if record.overridden != detail:
                self._ledger.put(record.model_copy(update={"overridden": detail}))
            return False
        self._write_down(record, last, state, limit_at_s)
        return True

    def _write_down(self, record: DeploymentRecord, last: Deferral, state: DeploymentState, limit_at_s: float) -> None:
        moment = self._ledger.moment
        if record.state is state and record.reason is Reason.DEFERRED and record.deferred_by == last:
            return
        left_s = min(self._until[last.token], limit_at_s) - moment.now_s
        until = datetime.fromtimestamp(moment.unix_s + left_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._ledger.move(
            record,
            state,
            reason=Reason.DEFERRED,
            detail=f"an app asked to wait until {until}: {last.reason}",
            deferred_at=moment.unix_s if record.deferred_at is None else record.deferred_at,
            deferred_by=last,
        )

    def _limit_of(self, record: DeploymentRecord) -> float:
        moment, plan_s = self._ledger.moment, record.wanted.max_defer_s
        if record.deployment_id not in self._limit_at:
            waited_s = 0.0 if record.deferred_at is None else max(0.0, moment.unix_s - record.deferred_at)
            self._limit_at[record.deployment_id] = moment.now_s + max(0.0, plan_s - waited_s)
        return self._limit_at[record.deployment_id]

    def _last_for(self, model: str) -> Deferral | None:
        """Of those that hold for a model the one that ends last."""
        holding = [one for one in self._ledger.deferrals.values() if one.model in (None, model)]
        return max(holding, key=lambda one: (self._until[one.token], one.token), default=None)

    def _end(self, tokens: set[str]) -> None:
        known = self._ledger.deferrals
        for token in tokens:
            self._until.pop(token, None)
        if tokens & known.keys():
            self._ledger.set_deferrals({name: one for name, one in known.items() if name not in tokens})
