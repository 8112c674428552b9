"""Which of two compressed models is better, where noise counts as no difference. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALIKE = 0.99  # of a size: files whose tensors have other names differ by less


@dataclass(frozen=True)
class Entrant:
    """A file and what was measured of it. `metric`: with its 95 % interval, the larger the better."""

    name: str
    metric: float
    low: float
    high: float
    p50_ms: tuple[float, ...]  # one of each turn
    wire_bytes: int

    def is_faster(self, other: Entrant) -> bool:
        """Beyond the spread of the turns: its slowest was faster than the other's fastest."""
        return max(self.p50_ms) < min(other.p50_ms)

    def is_righter(self, other: Entrant) -> bool:
        """Beyond the metric's interval: either value is outside of the other's, which is short where it nears 1."""
        return self.metric > other.high or other.metric < self.low

    def is_smaller(self, other: Entrant) -> bool:
        """On the wire."""
        return self.wire_bytes < ALIKE * other.wire_bytes

    def dominates(self, other: Entrant) -> bool:
        """Whether it is faster, righter or smaller, and the other is none of these."""
        gains = self.is_faster(other) or self.is_righter(other) or self.is_smaller(other)
        return gains and not (other.is_faster(self) or other.is_righter(self) or other.is_smaller(self))


@dataclass(frozen=True)
class Judgement:
    """How one side stands beside another. Pairs of names, the better one first."""

    dominated: tuple[tuple[str, str], ...]  # of our front, by theirs
    better: tuple[tuple[str, str], ...]  # something of our front, than something of theirs


def front(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Those that no other of them dominates: what noise alone had put on a front falls off."""
    return [one for one in entrants if not any(other.dominates(one) for other in entrants)]


def judge(ours: Sequence[Entrant], theirs: Sequence[Entrant]) -> Judgement:
    """Hold the front of one side against the other: against all of theirs, and what we gain by our own front alone."""
    own = front(ours)
    return Judgement(dominated=_pairs(theirs, own), better=_pairs(own, front(theirs)))


def _pairs(better: Iterable[Entrant], worse: Sequence[Entrant]) -> tuple[tuple[str, str], ...]:
    return tuple((one.name, other.name) for one in better for other in worse if one.dominates(other))
