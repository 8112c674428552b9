"""When a runner that has ended is started again, and how often it has. No IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.deployments.acquire import Rules
    from edge_agent.deployments.ledger import Ledger


class Restarts:
    """The waits of active deployments whose runner is not there; all times are of the monotonic clock."""

    def __init__(self, ledger: Ledger, *, rules: Rules, chance: Callable[[], float]) -> None:
        self.at: dict[str, float] = {}
        self._ledger = ledger
        self._rules = rules
        self._chance = chance
        self._crashes: dict[str, list[float]] = {}
        self._unstarted: dict[str, int] = {}  # how often in a row the device had no room for its process

    def pass_due(self) -> None:
        """Forget the waits that are over."""
        now_s = self._ledger.moment.now_s
        for deployment_id in [name for name, at_s in self.at.items() if at_s <= now_s]:
            del self.at[deployment_id]

    def crashed(self, deployment_id: str) -> int:
        """Its runner ended or refused: how often that was within the window, this time included."""
        now_s = self._ledger.moment.now_s
        recent = [at_s for at_s in self._crashes.get(deployment_id, []) if now_s - at_s < self._rules.crash_window_s]
        self._crashes[deployment_id] = [*recent, now_s]
        return len(recent) + 1

    def not_started(self, deployment_id: str) -> None:
        """There was no room for its process: the longer the oftener in a row."""
        self._unstarted[deployment_id] = count = self._unstarted.get(deployment_id, 0) + 1
        self.wait(deployment_id, count)

    def started(self, deployment_id: str) -> None:
        """There was room, and it is proven."""
        self._unstarted.pop(deployment_id, None)

    def wait(self, deployment_id: str, failures: int) -> None:
        """Start it again after a while, which grows with the failures."""
        wait_s = self._rules.restart.delay_s(failures, self._chance())
        self.at[deployment_id] = self._ledger.moment.now_s + wait_s

    def answers_no_more(self, deployment_id: str) -> None:
        """Another deployment answers for its model."""
        self.at.pop(deployment_id, None)
        self._crashes.pop(deployment_id, None)

    def forget(self, deployment_id: str) -> None:
        """Nobody wants it any more."""
        self.answers_no_more(deployment_id)
        self._unstarted.pop(deployment_id, None)
