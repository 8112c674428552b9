"""An image in memory of the tables that the controller writes. The rules change it; what changed is written at once.

Pure: nothing here knows a database. `offer` and `restore` are the only ways to change what a device shall run,
so a device never has two versions of one model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.protocol.messages import DesiredDeployment
from edge_agent.protocol.states import DeploymentState
from server.rollouts.facts import (
    CANCELLED,
    FAILED_STATES,
    OFFERED,
    ROLLED_BACK_LANE,
    WAITING,
    Decision,
    Deployment,
    Rollout,
    Standing,
    VariantFact,
    Why,
)
from server.rollouts.gate import is_to_come
from server.rollouts.plan import deployment_id_of
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edge_agent.protocol.shadow import ShadowPlan
    from server.rollouts.asking import Wish

DELTA_MODELS = 16  # of one device: with more, and the deltas of each, `desired` would grow too large
MAX_MODELS = 64  # of one device, by the wire contract (`Desired.deployments`)
MAX_CHAIN = 64  # of rollouts that were rolled back one after the other
WITHDRAWN = frozenset({RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK})
NOT_ENDED = frozenset({RolloutState.PREPARING, RolloutState.STAGING, RolloutState.RUNNING, RolloutState.PAUSED})


class Ledger:
    """Deployments, wanted states and standings as they are, and what of them has changed."""

    def __init__(
        self,
        *,
        deployments: Iterable[Deployment] = (),
        wanted: dict[str, dict[str, DesiredDeployment]] | None = None,
        staged: dict[str, dict[str, DesiredDeployment]] | None = None,
        generations: dict[str, int] | None = None,
        standings: dict[str, Standing] | None = None,
        find: Callable[[str], Deployment | None] = lambda _: None,
        age_of: Callable[[str], tuple[float, str]] = lambda _: (0.0, ""),
        priority_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """Take the rows.

        Args:
            deployments: rows of the rollouts at hand.
            wanted: by device, then by model: what its desired state says that it shall run.
            staged: the same for what shall lie ready beside that.
            generations: by device: of that desired state; a device without one has 0.
            standings: by rollout.
            find: reads a deployment that is not among the given ones (an older rollout's).
            age_of: `Rollout.age_order` of any rollout.
            priority_of: of any rollout.
        """
        self.deployments = {row.deployment_id: row for row in deployments}
        self.wanted = wanted if wanted is not None else {}
        self.staged = staged if staged is not None else {}
        self.generations = generations if generations is not None else {}
        self.standings = standings if standings is not None else {}
        self.decisions: list[Decision] = []
        self.wishes: list[Wish] = []
        self.changed_deployments: set[str] = set()
        self.changed_devices: set[str] = set()
        self.changed_standings: set[str] = set()
        self._find = find
        self._age_of, self._priority_of = age_of, priority_of

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.changed_deployments or self.changed_devices or self.changed_standings or self.decisions)

    def rows_of(self, rollout_id: str) -> list[Deployment]:
        """The deployments of one rollout."""
        return [row for row in self.deployments.values() if row.rollout_id == rollout_id]

    def get(self, deployment_id: str) -> Deployment | None:
        """One deployment of any rollout."""
        row = self.deployments.get(deployment_id)
        if row is None and (row := self._find(deployment_id)) is not None:
            self.deployments[deployment_id] = row
        return row

    def add(self, row: Deployment) -> None:
        """A new deployment."""
        self.deployments[row.deployment_id] = row
        self.changed_deployments.add(row.deployment_id)

    def set_state(self, row: Deployment, state: str, *, reason: str = "none", detail: str = "") -> bool:
        """Record where a deployment stands; whether that is news."""
        if (row.state, row.reason, row.detail) == (state, reason, detail):
            return False
        row.state, row.reason, row.detail = state, reason, detail
        self.changed_deployments.add(row.deployment_id)
        return True

    def stand(self, rollout_id: str, state: RolloutState, reason: str) -> None:
        """Record where a rollout stands."""
        standing = self.standings[rollout_id]
        if (standing.state, standing.reason) != (state, reason):
            standing.state, standing.reason = state, reason
            self.changed_standings.add(rollout_id)

    def decide(self, rollout: Rollout, action: str, sentence: str, **numbers: float | str) -> None:
        """Record a decision."""
        self.decisions.append(Decision(rollout.rollout_id, action, sentence, numbers))

    def is_wanted(self, row: Deployment) -> bool:
        """Whether the device's desired state names this deployment, to run it or to hold it ready."""
        return _names(self.wanted, row) or _names(self.staged, row)

    def is_staged(self, row: Deployment) -> bool:
        """Whether it shall lie ready, and answer nobody yet."""
        return _names(self.staged, row)

    def asks_for_shadow(self, row: Deployment) -> bool:
        """Whether the device's desired state asks for a shadow of this deployment."""
        entry = self.wanted.get(row.device_id, {}).get(row.model)
        return entry is not None and entry.deployment_id == row.deployment_id and entry.shadow is not None

    def offer(
        self,
        row: Deployment,
        variant: VariantFact,
        *,
        shadow: ShadowPlan | None = None,
        max_defer_s: float = 0.0,
        now: float,
    ) -> bool:
        """Put a deployment into the device's desired state, in the place of an older one of the same model.

        What it replaces is kept without its shadow and its patience with apps: who goes back shall answer at once.

        Returns:
            False when that can't be: a newer rollout of the model has this device, or it has as many models as it may.
        """
        replaced = self.wanted.get(row.device_id, {}).get(row.model)
        before = self.get(replaced.deployment_id) if replaced else None
        if before is not None and self._keeps(before.rollout_id, row.rollout_id):
            self._unstage(row)
            self.set_state(row, DeploymentState.SUPERSEDED, reason=Why.NEWER_ROLLOUT)
            return False
        if replaced is None and len(self.wanted.get(row.device_id, {})) >= MAX_MODELS:
            detail = f"this device runs {MAX_MODELS} models already, which is all that one can have"
            self.set_state(row, CANCELLED, reason=Why.TOO_MANY_MODELS, detail=detail)
            return False
        self._supersede_staged(row)
        row.previous = self._what_ran(replaced, before)
        row.variant_id, row.opened_at, row.retrying_since, row.retry_at = variant.variant_id, now, None, None
        row.offered_generation = self.next_generation(row.device_id)
        self.changed_deployments.add(row.deployment_id)
        if before is not None:
            newer = self._age_of(row.rollout_id) >= self._age_of(before.rollout_id)
            why = Why.NEWER_ROLLOUT if newer else Why.HIGHER_PRIORITY
            self.set_state(before, DeploymentState.SUPERSEDED, reason=why)
        self.set_state(row, OFFERED)
        entry = self._entry(row, variant, shadow=shadow, max_defer_s=max_defer_s)
        self.wanted.setdefault(row.device_id, {})[row.model] = entry
        self.changed_devices.add(row.device_id)
        return True

    def stage(self, row: Deployment, variant: VariantFact, *, max_defer_s: float = 0.0, now: float) -> bool:
        """Let a deployment lie ready on its device, in the place of an older one of the same model that does.

        What the device runs stays what it is, and is counted where it was; `offer` activates it.

        Returns:
            False when that can't be: a newer rollout of the model has this device, or stages something there.
        """
        for names in (self.wanted, self.staged):
            entry = names.get(row.device_id, {}).get(row.model)
            other = self.get(entry.deployment_id) if entry else None
            if other is not None and self._keeps(other.rollout_id, row.rollout_id):
                self.set_state(row, DeploymentState.SUPERSEDED, reason=Why.NEWER_ROLLOUT)
                return False
        if len(self.staged.get(row.device_id, {})) >= MAX_MODELS:
            detail = f"{MAX_MODELS} models lie ready on this device already, which is all that it can hold"
            self.set_state(row, CANCELLED, reason=Why.TOO_MANY_MODELS, detail=detail)
            return False
        self._supersede_staged(row)
        row.variant_id, row.opened_at, row.retrying_since, row.retry_at = variant.variant_id, now, None, None
        row.offered_generation = self.next_generation(row.device_id)
        self.changed_deployments.add(row.deployment_id)
        self.set_state(row, OFFERED)
        entry = self._entry(row, variant, shadow=None, max_defer_s=max_defer_s)
        self.staged.setdefault(row.device_id, {})[row.model] = entry
        self.changed_devices.add(row.device_id)
        return True

    def restore(self, row: Deployment, *, now: float) -> bool:
        """Let the device's desired state say again what it ran before this deployment; whether anything changed."""
        if self._unstage(row):
            return True
        if not self.is_wanted(row):
            return False
        target = self.last_good(row.previous)
        models = self.wanted[row.device_id]
        if target is None:
            del models[row.model]
        else:
            models[row.model] = target
            self._take_up(target.deployment_id, row.device_id, now=now)
        self.changed_devices.add(row.device_id)
        return True

    def begin_again(self, row: Deployment, *, why: str, retry_at: float | None = None, now: float) -> None:
        """A device shall be offered something of this rollout once more: another attempt, with another id.

        Until then it shall run what it ran before; it stays in the penalty box.
        """
        self.restore(row, now=now)
        del self.deployments[row.deployment_id]
        self.changed_deployments.discard(row.deployment_id)
        row.attempt += 1
        row.deployment_id = deployment_id_of(row.rollout_id, row.device_id, attempt=row.attempt)
        row.variant_id, row.previous, row.offered_generation = None, None, None
        row.running_at, row.retrying_since, row.retry_at, row.shadow = None, None, retry_at, None
        row.canary, row.takes_place = False, False
        self.add(row)
        self.set_state(row, WAITING, detail=why)

    def has_last_good(self, row: Deployment) -> bool:
        """Whether there is a version for this device to go back to."""
        return self.last_good(row.previous) is not None

    def forget_device(self, device_id: str) -> None:
        """A removed device shall run nothing of ours."""
        entries = (*self.wanted.get(device_id, {}).values(), *self.staged.pop(device_id, {}).values())
        for entry in entries:
            if (row := self.get(entry.deployment_id)) is not None:
                self.set_state(row, CANCELLED, reason=Why.REMOVED)
        self.wanted[device_id] = {}
        self.changed_devices.add(device_id)

    def next_generation(self, device_id: str) -> int:
        """Of a device's desired state, once what changes of it now is written."""
        return self.generations.get(device_id, 0) + 1

    def holders_above(self, rollout_id: str) -> dict[str, str]:
        """By device: an open rollout with a higher priority that is still to bring it something, or about to."""
        above = {
            other
            for other, standing in self.standings.items()
            if standing.state in NOT_ENDED and self._priority_of(other) > self._priority_of(rollout_id)
        }
        rows = self.deployments.values() if above else ()
        return {row.device_id: row.rollout_id for row in rows if row.rollout_id in above and is_to_come(row)}

    def _entry(
        self, row: Deployment, variant: VariantFact, *, shadow: ShadowPlan | None, max_defer_s: float
    ) -> DesiredDeployment:
        models = len(self.wanted.get(row.device_id, {})) + len(self.staged.get(row.device_id, {}))
        return DesiredDeployment(
            deployment_id=row.deployment_id,
            model=row.model,
            version=row.version,
            variant_id=variant.variant_id,
            manifest_sha256=variant.manifest_sha256,
            manifest_bytes=variant.manifest_bytes,
            limits=variant.limits,
            shadow=shadow,
            deltas=variant.deltas if models < DELTA_MODELS else (),
            max_defer_s=max_defer_s,
        )

    def _unstage(self, row: Deployment) -> bool:
        """It shall not lie ready any more; whether it did."""
        if not self.is_staged(row):
            return False
        del self.staged[row.device_id][row.model]
        self.changed_devices.add(row.device_id)
        return True

    def _supersede_staged(self, row: Deployment) -> None:
        """What an older rollout of the model has laid ready is not needed any more; what this one has is activated.

        What a newer one has laid ready stays.
        """
        entry = self.staged.get(row.device_id, {}).get(row.model)
        other = self.get(entry.deployment_id) if entry else None
        if entry is None or (other is not None and self._keeps(other.rollout_id, row.rollout_id)):
            return
        del self.staged[row.device_id][row.model]
        if other is not None and other.deployment_id != row.deployment_id:
            newer = self._age_of(row.rollout_id) >= self._age_of(other.rollout_id)
            why = Why.NEWER_ROLLOUT if newer else Why.HIGHER_PRIORITY
            self.set_state(other, DeploymentState.SUPERSEDED, reason=why)

    def _keeps(self, holder: str, other: str) -> bool:
        """Whether the rollout that a device runs the version of keeps it: the newer, unless the other is above."""
        newer = self._age_of(holder) > self._age_of(other)
        return newer and self._priority_of(other) <= self._priority_of(holder)

    def _take_up(self, deployment_id: str, device_id: str, *, now: float) -> None:
        """An older deployment is wanted again: what the device says of it counts again."""
        older = self.get(deployment_id)
        if older is not None:
            older.opened_at, older.offered_generation = now, self.next_generation(device_id)
            older.retrying_since, older.takes_place = None, False
            self.set_state(older, OFFERED, detail="wanted again after a newer version was taken back")
            self.changed_deployments.add(deployment_id)

    @staticmethod
    def _what_ran(replaced: DesiredDeployment | None, before: Deployment | None) -> DesiredDeployment | None:
        """What the device ran before an offer: what that replaces, or, if it never ran, what came before it."""
        if replaced is not None:
            replaced = replaced.model_copy(update={"shadow": None, "max_defer_s": 0.0})
        if before is None:
            return replaced
        ran = before.state not in FAILED_STATES and (
            before.running_at is not None or before.state == DeploymentState.ACTIVE
        )
        return replaced if ran else before.previous

    def last_good(self, entry: DesiredDeployment | None) -> DesiredDeployment | None:
        """Go back past versions that were rolled back or failed in the meantime."""
        for _ in range(MAX_CHAIN):
            row = self.get(entry.deployment_id) if entry else None
            if entry is None or row is None:
                return entry
            standing = self.standings.get(row.rollout_id)
            withdrawn = standing is not None and (
                standing.state in WITHDRAWN or standing.lane(row.profile).ended == ROLLED_BACK_LANE
            )
            if not withdrawn and row.state not in FAILED_STATES:
                return entry
            entry = row.previous
        return None


def _names(entries: Mapping[str, Mapping[str, DesiredDeployment]], row: Deployment) -> bool:
    entry = entries.get(row.device_id, {}).get(row.model)
    return entry is not None and entry.deployment_id == row.deployment_id
