"""When a device that fetches an object over MQTT listens, asks, waits and asks again. Pure: time comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.backoff import Backoff
from edge_agent.protocol.messages import Reply, ReplyStatus
from edge_agent.protocol.states import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

ASK_AGAIN = Backoff(first_s=2.0, cap_s=120.0)
POISONED_LIMIT = 5  # questions in a row that brought only wrong blocks: the object is not what the manifest says


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """Why the object can't be had."""

    reason: Reason
    detail: str


class BlockFetch:
    """Listens a while for the first pass, then asks for what is missing until all of it is there.

    Args:
        now_s: monotonic.
        listen_s: how long to wait for the first pass that serves everyone.
        quiet_s: silence after which the blocks that were to come have come, or are lost.
        answer_s: silence after which a question is asked again.
        chance: uniform numbers in [0, 1).
    """

    def __init__(
        self, *, now_s: float, listen_s: float, quiet_s: float, answer_s: float, chance: Callable[[], float]
    ) -> None:
        self._quiet_s, self._answer_s, self._chance = quiet_s, answer_s, chance
        self._fruitless = 0  # questions since the last block that was new
        self._poisoned = 0  # those of them that brought wrong blocks
        self._wrong = False  # a wrong block has come since the last question
        self.ask_at_s = now_s + listen_s * (0.5 + 0.5 * chance())
        self.failure: FetchFailure | None = None

    def due(self, now_s: float) -> bool:
        """Whether to ask for the missing blocks now; where all answers were wrong, `failure` is set instead."""
        if now_s >= self.ask_at_s and self._wrong:
            self._poisoned, self._wrong = self._poisoned + 1, False
            if self._poisoned >= POISONED_LIMIT:
                detail = "the blocks that come are not those of the manifest"
                self.failure = FetchFailure(Reason.TRANSFER_FAILED, detail)
        return self.failure is None and now_s >= self.ask_at_s

    def asked(self, now_s: float) -> None:
        """A question was sent."""
        self._fruitless += 1
        self._wrong = False
        self.ask_at_s = now_s + self._answer_s + ASK_AGAIN.delay_s(self._fruitless, self._chance())

    def block_arrived(self, now_s: float, *, new: bool, wrong: bool = False) -> None:
        """A block came, for all or for this device alone. Neither new nor wrong: it is here already."""
        self._wrong = self._wrong or wrong
        if new:
            self._fruitless = self._poisoned = 0
            self._wrong = False
            self.ask_at_s = now_s + self._quiet_s * (1.0 + self._chance())

    def connected(self, now_s: float) -> None:
        """The connection is new: whatever was asked before may be lost."""
        self.ask_at_s = min(self.ask_at_s, now_s + self._quiet_s * (1.0 + self._chance()))

    def answered(self, now_s: float, reply: Reply) -> None:
        """The registry has answered the question for blocks."""
        wait_s = reply.retry_after_s * (1.0 + self._chance())
        match reply.status:
            case ReplyStatus.OK:
                if self._fruitless > 1:  # sent before and nothing came: not at once again
                    wait_s += ASK_AGAIN.delay_s(self._fruitless, self._chance())
                self.ask_at_s = now_s + wait_s + self._quiet_s * (1.0 + self._chance())
            case ReplyStatus.SLOW_DOWN | ReplyStatus.UNAVAILABLE:
                self.ask_at_s = now_s + max(wait_s, ASK_AGAIN.delay_s(self._fruitless, self._chance()))
            case ReplyStatus.NOT_FOUND:
                self.failure = FetchFailure(Reason.OBJECT_NOT_FOUND, reply.detail or "the registry has no such object")
            case ReplyStatus.GONE:
                self.failure = FetchFailure(Reason.OBJECT_GONE, reply.detail or "the registry has removed the object")
