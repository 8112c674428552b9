"""What became of deployments and runners lately: said in the log, and kept for who asks what was wrong."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from edge_agent.deployments import events as ev
from edge_agent.protocol.states import DeploymentState, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge_agent.deployments.records import DeploymentRecord

log = logging.getLogger(__name__)
_BAD = frozenset({DeploymentState.FAILED, DeploymentState.REJECTED, DeploymentState.ROLLED_BACK})
_LEFT = "exit code 0"
KEPT = 64  # of each; the log on the disk reaches further back


class History:
    """The last transitions of deployments, and how runners ended.

    Args:
        records: what is known at the start: no news.
    """

    def __init__(self, records: Iterable[DeploymentRecord]) -> None:
        self._states: dict[str, DeploymentState] = {record.deployment_id: record.state for record in records}
        self._transitions: deque[dict[str, object]] = deque(maxlen=KEPT)
        self._ends: deque[dict[str, object]] = deque(maxlen=KEPT)

    def decided(self, action: ev.Action, unix_s: float) -> None:
        """Note what a decision of the core changes."""
        if not isinstance(action, ev.Persist):
            return
        for record in action.records:
            before = self._states.get(record.deployment_id)
            self._states[record.deployment_id] = record.state
            if before is not record.state:
                self._changed(record, before, unix_s)
        for deployment_id in action.forgotten:
            self._states.pop(deployment_id, None)

    def happened(self, event: ev.Event, unix_s: float) -> None:
        """Note the end of a runner, and why."""
        match event:
            case ev.RunnerRefused():
                self._ended(
                    event.deployment_id, f"refused: {_because(event.reason, event.detail)}", unix_s, logging.WARNING
                )
            case ev.RunnerNotStarted():
                self._ended(event.deployment_id, event.detail, unix_s, logging.WARNING)
            case ev.RunnerHung():
                self._ended(event.deployment_id, f"hung: {event.detail}", unix_s, logging.WARNING)
            case ev.RunnerExited():
                level = logging.INFO if event.detail == _LEFT else logging.WARNING
                self._ended(event.deployment_id, event.detail, unix_s, level)

    def describe(self) -> dict[str, object]:
        """All of it, oldest first."""
        return {"transitions": list(self._transitions), "runner_ends": list(self._ends)}

    def _changed(self, record: DeploymentRecord, before: DeploymentState | None, unix_s: float) -> None:
        why = _because(record.reason, record.detail)
        name = f"{record.deployment_id} ({record.model}@{record.wanted.version})"
        level = logging.WARNING if record.state in _BAD else logging.INFO
        log.log(level, "deployment %s is %s%s", name, record.state, f": {why}" if why else "")
        self._transitions.append(
            {
                "at": unix_s,
                "deployment_id": record.deployment_id,
                "from": before,
                "to": record.state,
                "reason": record.reason,
                "detail": record.detail,
            }
        )

    def _ended(self, deployment_id: str, how: str, unix_s: float, level: int) -> None:
        log.log(level, "the runner of %s ended: %s", deployment_id, how)
        self._ends.append({"at": unix_s, "deployment_id": deployment_id, "how": how})


def _because(reason: Reason, detail: str) -> str:
    return ": ".join(part for part in ("" if reason is Reason.NONE else reason.value, detail) if part)
