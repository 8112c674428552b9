"""What the rows of a backup say in the registry that is made of them. Pure.

A new epoch outranks every desired state that a device has accepted since the backup, and the controller writes all of
them anew. What was under way goes on as if no time had passed: a rollout must not take the days between the backup and
its restore for the silence of its devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.database import tables
from server.jobs.claims import NO_PROGRESS
from server.rollouts.quiet import IN_FLIGHT
from server.schemas.catalogue import JobState

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of processes that are gone: who holds the lead, and who works.
DROPPED: Final = frozenset({tables.leases.name, tables.heartbeats.name})
_IN_FLIGHT: Final = frozenset(str(state) for state in IN_FLIGHT)


def epoch_after(epoch: int, *, now: float) -> int:
    """The epoch of a restored registry: later than that of the backup, and than one that was restored before."""
    return max(epoch + 1, int(now))


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """Changes rows on their way from a backup into a registry."""

    epoch: int
    gap_s: float
    """Time from the backup to its restore."""
    open_rollouts: frozenset[str]

    def row(self, table: sa.Table, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a row is to say."""
        if table is tables.registry:
            return {**row, "epoch": self.epoch}
        if table is tables.job_runs and row["state"] == JobState.RUNNING:
            return _queued_anew(row)
        if table in {tables.deployments, tables.rollout_states} and self._is_under_way(row):
            return self._moved(table, row)
        return row

    def _is_under_way(self, row: Mapping[str, Any]) -> bool:
        return row["rollout_id"] in self.open_rollouts or row["state"] in _IN_FLIGHT

    def _moved(self, table: sa.Table, row: Mapping[str, Any]) -> Mapping[str, Any]:
        times = [column.name for column in table.columns if isinstance(column.type, sa.Float)]
        moved = {**row, **{name: row[name] + self.gap_s for name in times if row[name] is not None}}
        if table is tables.rollout_states and row["lanes"]:
            moved["lanes"] = {profile: self._waits_on(lane) for profile, lane in row["lanes"].items()}
        return moved

    def _waits_on(self, lane: Mapping[str, Any]) -> dict[str, Any]:
        """A lane that waits for the compressor: its job is queued anew, and has as long as it had."""
        asks = [one if one["outcome"] else {**one, "until": one["until"] + self.gap_s} for one in lane.get("asks", ())]
        return {**lane, "asks": asks}


def _queued_anew(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """As a worker gives a job back that was asked to stop: it does not count as an attempt."""
    return {
        **row,
        "state": JobState.QUEUED.value,
        "attempt": max(0, row["attempt"] - 1),
        "lease_until": 0.0,
        "progress": NO_PROGRESS,
    }
