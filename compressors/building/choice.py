"""Which of the candidates a profile gets, and in one sentence why. Pure: judgements in, one of them and a sentence out.

What surely keeps to what the profile allows of the metric goes before what may break it (`judge.sparing`), then what
fits before what is unproven. Among those the fastest wins. A latency is
a median with its interval: candidates whose intervals meet can't be told apart, unless one median is half as large
again: so wide an interval says that the host was busy. Within 10 % a host says nothing about another core. Both count
as equally fast, and there the smaller download wins; sizes within 1 % are equal, and there the smaller drop wins,
then the faster one. What was compiled for the profile's NPU goes before what runs on its CPU until devices have
measured all: a host says nothing about either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressors.building.judge import number, sparing
from compressors.contract import Origin, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressors.building.judge import Candidate, Judgement

ALLOWED = (Verdict.FITS, Verdict.UNPROVEN)  # in this order
EQUALLY_FAST = 1.10
TOLD_APART = 1.5  # times the fastest median: slower, however wide the intervals are
EQUALLY_SMALL = 1.01
_KIB = 1024


@dataclass(frozen=True, slots=True)
class _Speed:
    """A latency in ms, and between which values it lies."""

    ms: float
    low_ms: float
    high_ms: float

    def is_as_fast_as(self, fastest: _Speed) -> bool:
        meets = self.low_ms <= fastest.high_ms and self.ms <= fastest.ms * TOLD_APART
        return meets or self.ms <= fastest.ms * EQUALLY_FAST


@dataclass(frozen=True)
class _Contest:
    """Candidates that may be chosen, and those among them that nothing faster beats."""

    allowed: list[Judgement]
    speed: dict[str, _Speed]
    measured: str  # where those latencies come from, for people
    as_fast: list[Judgement]  # the best first
    passed_over: list[Judgement]  # they miss no limit as measured, and may break one on the metric

    def speed_of(self, judgement: Judgement) -> _Speed:
        return self.speed[judgement.candidate.variant_id]


def choose(judgements: Sequence[Judgement]) -> Judgement | None:
    """The candidate that a profile gets; None when nothing may be chosen."""
    contest = _contest(judgements)
    return contest.as_fast[0] if contest else None


def ranked(judgements: Sequence[Judgement]) -> list[Judgement]:
    """What a profile may get, in the order in which it would: what is chosen, and what were chosen without that."""
    left, order = list(judgements), []
    while (best := choose(left)) is not None:
        order.append(best)
        left = [judgement for judgement in left if judgement is not best]
    return order


def explain(judgements: Sequence[Judgement], *, metric: str) -> str:
    """Why `choose` takes what it takes, and what the nearest alternative lost on; empty when it takes nothing."""
    contest = _contest(judgements)
    if contest is None:
        return ""
    chosen = contest.as_fast[0]
    others = [judgement for judgement in judgements if judgement is not chosen]
    lossy = f", though it {chosen.caveat}" if chosen.caveat else ""
    told = f"{_name(chosen)} is {_merit(contest, metric)}{lossy}"
    if not others:
        return f"{told}; there was no other candidate."
    return f"{told}; the nearest alternative, {_alternative(contest, others, metric)}."


def _contest(judgements: Sequence[Judgement]) -> _Contest | None:
    meeting = [judgement for judgement in judgements if judgement.verdict in ALLOWED]
    offered = sparing(meeting, lambda one: one.unasked_points)
    passed_over = [judgement for judgement in meeting if judgement not in offered]
    tried = _on_npu(offered)  # before proof: nothing here proves anything of an NPU
    for verdict in ALLOWED:
        allowed = [judgement for judgement in tried if judgement.verdict is verdict]
        if allowed:
            speed, measured = _comparable([judgement.candidate for judgement in allowed])
            fastest = min(speed.values(), key=lambda one: one.ms)
            as_fast = [one for one in allowed if speed[one.candidate.variant_id].is_as_fast_as(fastest)]
            return _Contest(allowed, speed, measured, _in_order(as_fast, speed), passed_over)
    return None


def _on_npu(allowed: list[Judgement]) -> list[Judgement]:
    """Those for the NPU, where there are any and devices have not measured all."""
    measured = [one.candidate.latency_p95_ms for one in allowed]
    if all(figure is not None and figure.origin is Origin.DEVICE for figure in measured):
        return allowed
    return [one for one in allowed if _is_for_npu(one)] or allowed


def _is_for_npu(judgement: Judgement) -> bool:
    return judgement.candidate.operators_off_npu is not None


def _comparable(candidates: Sequence[Candidate]) -> tuple[dict[str, _Speed], str]:
    """Latencies that may be set side by side, and where they come from.

    Those of devices if all have one; those of devices or predicted from them if all have either; else the host's, or,
    of files for an NPU, the compiler's.
    """
    origins = [None if one.latency_p95_ms is None else one.latency_p95_ms.origin for one in candidates]
    found = [_on_device(candidate) for candidate in candidates]
    known = [one for one in found if one is not None]
    if len(known) == len(candidates):
        speed = {candidate.variant_id: one for candidate, one in zip(candidates, known, strict=True)}
        if all(origin is Origin.DEVICE for origin in origins):
            return speed, "on devices"
        return speed, "on devices or predicted from them" if Origin.DEVICE in origins else "as predicted"
    estimated = any(candidate.operators_off_npu is not None for candidate in candidates)
    where = "as its compiler estimates" if estimated else "on the host"
    return {candidate.variant_id: _on_host(candidate) for candidate in candidates}, where


def _on_device(candidate: Candidate) -> _Speed | None:
    """What devices measured, or what is predicted from it, with the host's noise: its own interval is the CPU's."""
    latency, host = candidate.latency_p95_ms, _on_host(candidate)
    if latency is None or (latency.origin is not Origin.DEVICE and latency.device_variants is None):
        return None
    if latency.origin is Origin.DEVICE or not 0 < host.ms < float("inf"):
        return _Speed(latency.value, latency.value, latency.value)
    ratio = latency.value / host.ms
    return _Speed(latency.value, host.low_ms * ratio, host.high_ms * ratio)


def _on_host(candidate: Candidate) -> _Speed:
    ms = float("inf") if candidate.host_latency_p50_ms is None else candidate.host_latency_p50_ms
    low, high = candidate.host_latency_interval_ms or (ms, ms)
    return _Speed(ms, min(low, ms), max(high, ms))


def _in_order(as_fast: list[Judgement], speed: dict[str, _Speed]) -> list[Judgement]:
    """Equally fast ones, the best first: the fewest bytes to deliver, then the best metric, then the fastest."""
    smallest = min(map(_size, as_fast))

    def rank(judgement: Judgement) -> tuple[float, float, float, str]:
        candidate = judgement.candidate
        size = smallest if _is_as_small(judgement, smallest) else _size(judgement)
        return size, candidate.metric_drop or 0.0, speed[candidate.variant_id].ms, candidate.variant_id

    return sorted(as_fast, key=rank)


def _is_as_small(judgement: Judgement, size_bytes: int) -> bool:
    return _size(judgement) <= size_bytes * EQUALLY_SMALL


def _merit(contest: _Contest, metric: str) -> str:
    """What the chosen one has that the others have not."""
    chosen, equal = contest.as_fast[0], contest.as_fast
    if len(contest.allowed) == 1:
        if _is_for_npu(chosen):
            return "the only one for the NPU"
        little = f" with so small a loss of {metric}" if contest.passed_over else ""
        proof = " as far as is known" if chosen.verdict is Verdict.UNPROVEN else ""
        return f"the only one that meets the limits{little}{proof}"
    if len(equal) == 1:
        return f"the fastest of {len(contest.allowed)}, {number(contest.speed_of(chosen).ms)} ms {contest.measured}"
    times = [contest.speed_of(one).ms for one in equal]
    between = f"{number(min(times))} to {number(max(times))} ms {contest.measured}"
    tie = f"of {len(equal)} that can't be told apart in speed ({between})"
    if not _is_as_small(equal[1], _size(chosen)):
        return f"the smallest download, {_bytes(chosen, beside=equal[1])}, {tie}"
    if (chosen.candidate.metric_drop or 0.0) < (equal[1].candidate.metric_drop or 0.0):
        return f"the most accurate of the smallest downloads, {_bytes(chosen)}, {tie}"
    if contest.speed_of(chosen).ms < contest.speed_of(equal[1]).ms:
        return f"the faster of the smallest downloads, {_bytes(chosen)}, that lose alike, {tie}"
    return f"the first by name {tie}"


def _alternative(contest: _Contest, others: list[Judgement], metric: str) -> str:
    """Who came next, and what it lost on."""
    chosen = contest.as_fast[0]
    if len(contest.as_fast) > 1:
        return _beaten_among_equals(contest, metric)
    slower = [one for one in contest.allowed if one is not chosen]
    if slower:
        following = min(slower, key=lambda one: (contest.speed_of(one).ms, one.candidate.variant_id))
        return f"{_name(following)}, is slower: {number(contest.speed_of(following).ms)} ms"
    return _not_allowed(contest, others)


def _beaten_among_equals(contest: _Contest, metric: str) -> str:
    chosen, following = contest.as_fast[:2]
    if not _is_as_small(following, _size(chosen)):
        return f"{_name(following)}, is larger: {_bytes(following, beside=chosen)}"
    lost, loses = (judgement.candidate.metric_drop or 0.0 for judgement in (chosen, following))
    if loses > lost:
        return f"{_name(following)}, loses more of {metric}: {number(loses)} against {number(lost)}"
    if contest.speed_of(following).ms > contest.speed_of(chosen).ms:
        return f"{_name(following)}, is a little slower: {number(contest.speed_of(following).ms)} ms"
    return f"{_name(following)}, differs in nothing that can be measured"


def _not_allowed(contest: _Contest, others: list[Judgement]) -> str:
    """Who would have come next if its profile, or its proof, had allowed it."""
    chosen = contest.as_fast[0]

    def order(judgement: Judgement) -> tuple[int, float, str]:
        verdicts = (chosen.verdict, *Verdict)
        excess = max((miss.excess for miss in judgement.misses), default=0.0)
        return verdicts.index(judgement.verdict), excess, judgement.candidate.variant_id

    following = min(others, key=order)
    if following in contest.passed_over:
        return f"{_name(following)}, {following.caveat}"
    if following.verdict in ALLOWED and _is_for_npu(chosen) and not _is_for_npu(following):
        return f"{_name(following)}, runs on the CPU, and no device has measured both"
    words = {Verdict.UNPROVEN: "is unproven", Verdict.MISSES: "misses a limit", Verdict.UNMEASURED: "did not run"}
    return f"{_name(following)}, {words[following.verdict]}: {following.reason.rstrip('.')[:200]}"


def _name(judgement: Judgement) -> str:
    """A variant without the digest that ends its id: what tells people the candidates of one profile apart."""
    variant_id = judgement.candidate.variant_id
    return variant_id.rpartition("-")[0] or variant_id


def _size(judgement: Judgement) -> int:
    return judgement.candidate.download_bytes or 0


def _bytes(judgement: Judgement, *, beside: Judgement | None = None) -> str:
    """A size in the unit that suits it, in bytes where rounding would hide the difference to the one beside it."""
    size, text = _size(judgement), _rounded(_size(judgement))
    hides = beside is not None and _size(beside) != size and _rounded(_size(beside)) == text
    return f"{size:,} bytes" if hides else text


def _rounded(size_bytes: int) -> str:
    if size_bytes < _KIB * _KIB:
        return f"{size_bytes / _KIB:,.1f} KiB"
    return f"{size_bytes / _KIB / _KIB:,.1f} MiB"
