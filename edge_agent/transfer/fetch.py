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
FRUITLESS_LIMIT = 8  # questions in a row, over seven minutes, that brought nothing new: it fails for now


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """Why the object can't be had."""

    reason: Reason
    detail: str
    again: bool = True  # False: the registry has said no, and asking once more changes nothing


class BlockFetch:
    """Listens a while for the first pass, then asks for what is missing until all of it is there.

    Args:
        now_s: monotonic.
        listen_s: how long at most to wait for the first pass that serves everyone; 0: asks at once, alone.
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
        self._came = 0  # private blocks since the last question
        self._coming: int | None = None  # how many of them its answer has announced
        self._said = "the registry does not answer"
        self.ask_at_s = now_s + listen_s * chance()  # the first of a wave asks at once, and most of it need not
        self.failure: FetchFailure | None = None

    def due(self, now_s: float) -> bool:
        """Whether to ask for the missing blocks now; where asking was in vain too often, `failure` is set instead."""
        if now_s < self.ask_at_s:
            return False
        if self._wrong:
            self._poisoned, self._wrong = self._poisoned + 1, False
            if self._poisoned >= POISONED_LIMIT:
                detail = "the blocks that come are not those of the manifest"
                self.failure = FetchFailure(Reason.TRANSFER_FAILED, detail)
        elif self._fruitless >= FRUITLESS_LIMIT:
            detail = f"{FRUITLESS_LIMIT} questions in a row brought no block: {self._said}"
            self.failure = FetchFailure(Reason.TRANSFER_FAILED, detail)
        return self.failure is None

    def asked(self, now_s: float) -> None:
        """A question was sent."""
        self._fruitless += 1
        self._wrong = False
        self._came, self._coming = 0, None
        self._said = "the registry does not answer"
        self.ask_at_s = now_s + self._answer_s + ASK_AGAIN.delay_s(self._fruitless, self._chance())

    def block_arrived(self, now_s: float, *, new: bool, wrong: bool = False, private: bool = False) -> None:
        """A block came, for all or for this device alone. Neither new nor wrong: it is here already."""
        self._wrong = self._wrong or wrong
        self._came += private
        if new:
            self._fruitless = self._poisoned = 0
            self._wrong = False
            self.ask_at_s = now_s + self._quiet_s * (1.0 + self._chance())
        self._go_on(now_s)

    def connected(self, now_s: float) -> None:
        """The connection is new: whatever was asked before may be lost."""
        self.ask_at_s = min(self.ask_at_s, now_s + self._quiet_s * (1.0 + self._chance()))

    def answered(self, now_s: float, reply: Reply) -> None:
        """The registry has answered the question for blocks."""
        wait_s = reply.retry_after_s * (1.0 + self._chance())
        match reply.status:
            case ReplyStatus.OK:
                self._said = "the registry says that it has sent them"
                if self._fruitless > 1:  # sent before and nothing came: not at once again
                    wait_s += ASK_AGAIN.delay_s(self._fruitless, self._chance())
                self.ask_at_s = now_s + wait_s + self._quiet_s * (1.0 + self._chance())
                self._coming = None if reply.first_pass else reply.blocks_sent
                self._go_on(now_s)
            case ReplyStatus.SLOW_DOWN | ReplyStatus.UNAVAILABLE:
                self._said = f"the registry answers {reply.status}. {reply.detail}".rstrip(". ")
                self.ask_at_s = now_s + max(wait_s, ASK_AGAIN.delay_s(self._fruitless, self._chance()))
            case ReplyStatus.NOT_FOUND:
                detail = reply.detail or "the registry has no such object"
                self.failure = FetchFailure(Reason.OBJECT_NOT_FOUND, detail, again=False)
            case ReplyStatus.GONE:
                detail = reply.detail or "the registry has removed the object"
                self.failure = FetchFailure(Reason.OBJECT_GONE, detail, again=False)

    def _go_on(self, now_s: float) -> None:
        """Ask for the next ones as soon as all that were announced have come, right or wrong."""
        if self._coming and self._came >= self._coming and not self._wrong:
            self.ask_at_s, self._coming = now_s, None
