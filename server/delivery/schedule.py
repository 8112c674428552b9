"""Which block goes out next, to all or to one, and what a device that asks is told. Pure: time comes in.

The rule. A device that listens and lacks at least half of an object opens a short gathering window, then the whole
object goes out once for everybody who listens (the *first pass*). Whoever asks meanwhile is told to wait for it.
Afterwards each device gets what it still lacks in private: broadcasting repairs again made every listener receive
86-117 % of the file twice (simulated: 100 devices, 20 cuts each). Another pass begins only for a device that no pass
has served, and not until `again_s` after the last one ended: that is the next wave.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from edge_agent.protocol.messages import ReplyStatus
from server.mqtt.pacing import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.protocol.manifest import ObjectDescriptor

MIB = 1 << 20
REMEMBERED_DEVICES = 20_000
REMEMBERED_OBJECTS = 1_000
NOTHING_DUE_S = 3600.0
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class DeliveryRules:
    """The numbers of the rule."""

    rate_bytes_s: float = 20e6  # of everything that goes out
    gather_s: float = 0.3  # how long the first asker waits for others
    pass_share: float = 0.5  # of an object that a device must lack for a pass to be worth it
    again_s: float = 30.0  # after a pass, until another of the same object may begin
    repair_rate_bytes_s: float = 4e6  # for one device
    repair_burst_bytes: float = 8.0 * MIB
    repair_ask_bytes: int = 2 * MIB  # for one question; the device asks again
    asks_per_s: float = 5.0  # of one device
    asks_burst: float = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a device that asked for blocks is told."""

    status: ReplyStatus = ReplyStatus.OK
    first_pass: bool = False
    blocks: int = 0
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Send:
    """One block that is due: for all (`device` None) or for one."""

    descriptor: ObjectDescriptor
    block: int
    device: str | None = None


@dataclass(slots=True)
class _Pass:
    descriptor: ObjectDescriptor
    starts_at_s: float = 0.0
    next_block: int = 0
    ended_at_s: float | None = None
    served: set[str] = field(default_factory=set)

    @property
    def is_on(self) -> bool:
        return self.ended_at_s is None


class Schedule:
    """Passes and repairs that are due. Not thread-safe."""

    def __init__(self, rules: DeliveryRules) -> None:
        self._rules = rules
        # a burst of a fiftieth of a second: long enough for the clock, short enough for a broker's buffers
        self._pace = TokenBucket(rules.rate_bytes_s, max(MIB / 4, rules.rate_bytes_s / 50))
        self._passes: OrderedDict[str, _Pass] = OrderedDict()
        self._repairs: OrderedDict[tuple[str, str], tuple[ObjectDescriptor, deque[int]]] = OrderedDict()
        self._repair_buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._ask_buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._repaired_last = False

    def may_ask(self, device: str, now_s: float) -> float:
        """Count a question of any kind: 0.0 if it is to be answered, else the seconds to wait."""
        rules = self._rules
        bucket = _remembered(self._ask_buckets, device, lambda: TokenBucket(rules.asks_per_s, rules.asks_burst))
        if (wait_s := bucket.wait_s(1, now_s)) > 0.0:
            return wait_s
        bucket.take(1, now_s)
        return 0.0

    def ask(
        self, device: str, descriptor: ObjectDescriptor, missing: Sequence[int], *, listening: bool, now_s: float
    ) -> Answer:
        """A device that is entitled to an object lacks these blocks of it."""
        if not missing:
            return Answer()
        current = self._passes.get(descriptor.sha256)
        if listening and (self._is_on(current) or self._worth_a_pass(device, descriptor, missing, now_s)):
            return Answer(first_pass=True, retry_after_s=self._join_pass(device, descriptor, now_s))
        return self._repair(device, descriptor, missing, now_s)

    def next_block(self, now_s: float) -> Send | None:
        """Take the next block that is due, if the pace allows one."""
        send = self._choose(now_s)
        if send is None:
            return None
        size_bytes = send.descriptor.block_span(send.block)[1]
        if self._pace.wait_s(size_bytes, now_s) > 0.0:
            return None
        self._pace.take(size_bytes, now_s)
        self._remove(send, now_s)
        return send

    def wait_s(self, now_s: float) -> float:
        """How long nothing will be due unless somebody asks."""
        send = self._choose(now_s)
        if send is not None:
            return self._pace.wait_s(send.descriptor.block_span(send.block)[1], now_s)
        starts = [one.starts_at_s for one in self._passes.values() if one.is_on]
        return max(0.0, min(starts) - now_s) if starts else NOTHING_DUE_S

    def give_up(self, sha256: str) -> None:
        """The object can't be read now: its pass and its repairs end, and may begin again with the next question."""
        self._passes.pop(sha256, None)
        for key in [key for key in self._repairs if key[1] == sha256]:
            del self._repairs[key]

    @staticmethod
    def _is_on(one: _Pass | None) -> bool:
        return one is not None and one.is_on

    def _worth_a_pass(self, device: str, descriptor: ObjectDescriptor, missing: Sequence[int], now_s: float) -> bool:
        if len(missing) < self._rules.pass_share * descriptor.block_count:
            return False
        last = self._passes.get(descriptor.sha256)
        if last is None or last.ended_at_s is None:
            return True
        return device not in last.served and now_s >= last.ended_at_s + self._rules.again_s

    def _join_pass(self, device: str, descriptor: ObjectDescriptor, now_s: float) -> float:
        """Wait for the pass that is on, or open one; about how long until its last block is out."""
        current = self._passes.get(descriptor.sha256)
        if current is None or not current.is_on:
            served = current.served if current is not None else set()
            current = _Pass(descriptor, starts_at_s=now_s + self._rules.gather_s, served=served)
            self._passes[descriptor.sha256] = current
            self._forget_old_passes()
        current.served.add(device)
        left_bytes = descriptor.size_bytes - current.next_block * descriptor.block_bytes
        return max(0.0, current.starts_at_s - now_s) + left_bytes / self._rules.rate_bytes_s

    def _repair(self, device: str, descriptor: ObjectDescriptor, missing: Sequence[int], now_s: float) -> Answer:
        rules = self._rules
        if (device, descriptor.sha256) in self._repairs:
            return Answer(ReplyStatus.SLOW_DOWN, retry_after_s=1.0)  # the last answer is still on its way
        bucket = _remembered(
            self._repair_buckets, device, lambda: TokenBucket(rules.repair_rate_bytes_s, rules.repair_burst_bytes)
        )
        blocks: deque[int] = deque()
        budget_bytes = rules.repair_ask_bytes
        for block in missing:
            size_bytes = descriptor.block_span(block)[1]
            if bucket.wait_s(size_bytes, now_s) > 0.0 or (blocks and size_bytes > budget_bytes):
                break
            bucket.take(size_bytes, now_s)
            budget_bytes -= size_bytes
            blocks.append(block)
        if not blocks:
            wait_s = bucket.wait_s(descriptor.block_span(missing[0])[1], now_s)
            return Answer(ReplyStatus.SLOW_DOWN, retry_after_s=max(wait_s, 0.1))
        self._repairs[(device, descriptor.sha256)] = (descriptor, blocks)
        return Answer(blocks=len(blocks))

    def _choose(self, now_s: float) -> Send | None:
        """Repairs and passes take turns, and within each kind whoever waited longest."""
        repair = next(iter(self._repairs.items()), None)
        due = next((one for one in self._passes.values() if one.is_on and now_s >= one.starts_at_s), None)
        if repair is not None and (due is None or not self._repaired_last):
            (device, _), (descriptor, blocks) = repair
            return Send(descriptor, blocks[0], device)
        return Send(due.descriptor, due.next_block) if due is not None else None

    def _remove(self, send: Send, now_s: float) -> None:
        sha256 = send.descriptor.sha256
        self._repaired_last = send.device is not None
        if send.device is not None:
            key = (send.device, sha256)
            _, blocks = self._repairs[key]
            blocks.popleft()
            if blocks:
                self._repairs.move_to_end(key)
            else:
                del self._repairs[key]
            return
        current = self._passes[sha256]
        current.next_block += 1
        self._passes.move_to_end(sha256)
        if current.next_block >= send.descriptor.block_count:
            current.ended_at_s = now_s

    def _forget_old_passes(self) -> None:
        ended = [sha256 for sha256, one in self._passes.items() if not one.is_on]
        for sha256 in ended[: max(0, len(self._passes) - REMEMBERED_OBJECTS)]:
            del self._passes[sha256]


def _remembered(known: OrderedDict[str, _V], device: str, make: Callable[[], _V]) -> _V:
    """What is kept of a device; the one that was silent longest is forgotten when there are too many."""
    value = known.setdefault(device, make()) if device not in known else known[device]
    known.move_to_end(device)
    if len(known) > REMEMBERED_DEVICES:
        known.popitem(last=False)
    return value
