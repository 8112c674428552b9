"""Hold candidates against a profile's limits. Pure: figures in, verdicts (or a refusal) out; `choice` picks one.

A latency that was measured on another CPU never satisfies a limit, and one that is predicted only if its whole interval
does: else such a candidate is `unproven`, and the self-test on the first device decides. So is one whose memory nobody
has measured, where the profile limits it.

A profile that sets no limit on the metric asks for the float model's answers. A candidate that may lose more than
half a point says so, however it was made, and gives way to what surely loses less (`sparing`). May: at the
unfavourable end of the 95 % interval of its loss, because of hundreds that a search tries on a few hundred rows some
lose nothing by luck (of phishing pages they lost 5 to 7 points on other rows). One that loses more than two points
even at the favourable end is broken, and refused: tflite-runtime 2.14 runs dynamic int8 files without an error, and
answers nonsense: top-1 fell from 0.92 to 0. The interval is that of the difference on the same rows, far narrower
than those of the two metrics.

A floor says what is good enough, and nothing of the float model: what meets it need not give way, but what it may lose
is said all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from compressors.contract import Origin, RefusedProfile, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compressors.contract import Figure
    from compressors.metrics import Metric
    from edge_agent.protocol.profile import DeviceProfile

POINT = 0.01  # of a metric between 0 and 1; for the others this share of the float model's value
UNSAID_POINTS = 0.5  # may be lost without a word where the profile sets no limit on the metric
UNASKED_POINTS = 2.0  # may not surely be lost there at all
UNASKED_DROP = UNASKED_POINTS * POINT

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A variant as the judge sees it. None: not known. Metric and drop are those of the selection split."""

    variant_id: str
    error: str | None
    latency_p95_ms: Figure | None
    host_latency_p50_ms: float | None  # for ranking only: a busy host moves the p95 of one candidate, not of another.
    # Of a file for an NPU it is the compiler's estimate
    metric: float | None
    metric_drop: float | None
    metric_drop_at_least: float | None  # the favourable end of the drop's interval; without one the drop counts
    metric_drop_at_most: float | None  # the unfavourable end
    metric_point: float | None  # one point of this metric
    ram_bytes: int | None
    download_bytes: int | None
    storage_bytes: int | None
    host_latency_interval_ms: tuple[float, float] | None = None  # 95 % interval of the median
    operators_off_npu: int | None = None  # of a file that was compiled for one


@dataclass(frozen=True)
class Miss:
    """A limit that a candidate does not meet; `excess` is how far off it is, 1.0 = just met."""

    limit: str
    allowed: float
    value: float
    excess: float
    unasked: bool = False  # the profile sets no such limit: this is what holds where it is silent

    def sentence(self) -> str:
        """For people."""
        if self.unasked:
            lost, most = number(self.value), number(self.allowed)
            return f"{self.limit} is {lost} or more, where the profile sets no limit {most} is the most"
        return f"{self.limit} is {number(self.value)}, the limit is {number(self.allowed)}"


@dataclass(frozen=True)
class Judgement:
    """The verdict on one candidate."""

    candidate: Candidate
    verdict: Verdict
    misses: tuple[Miss, ...] = ()
    reason: str = ""
    unsaid_loss: float | None = None
    """What it may lose, where that is more than a profile which sets no limit on the loss is given in silence."""
    unasked_points: float | None = None
    """The same in points of the metric, where the profile sets no floor either: what makes it give way."""


def sparing(items: Sequence[T], unasked_points: Callable[[T], float | None]) -> list[T]:
    """What may be offered of all that misses no limit: whatever surely loses little goes before what may lose more.

    Latency is no reason to keep what loses more: the first device's self-test finds out how fast a variant is, and
    nothing finds out later how right it is.

    Args:
        items: candidates that miss no limit, proven or not.
        unasked_points: what one may lose, where that is more than goes without a limit; None: it loses less.

    Returns:
        Those that lose little; where all may lose more, those within as much of the one that loses least.
    """
    lost = [unasked_points(item) or 0.0 for item in items]
    most = min(lost, default=0.0) + UNSAID_POINTS
    return [item for item, points in zip(items, lost, strict=True) if points <= most]


def metric_point(metric: Metric, float_value: float) -> float:
    """One point of a metric: of an unbounded one a hundredth of the float model's value."""
    return POINT if metric.bounded else POINT * abs(float_value)


def judge(candidate: Candidate, profile: DeviceProfile, metric: Metric, *, host_cpu_model: str | None) -> Judgement:
    """Hold one candidate against the limits of a profile."""
    if candidate.error is not None:
        return Judgement(candidate, Verdict.UNMEASURED, reason=candidate.error)
    misses = _misses(candidate, profile, metric)
    limit_ms = profile.limits.latency_p95_ms
    latency_known = _is_known(candidate.latency_p95_ms, profile, host_cpu_model)
    if limit_ms is not None and latency_known and candidate.latency_p95_ms is not None:
        value = candidate.latency_p95_ms.value
        if value > limit_ms:
            misses.append(Miss("latency_p95_ms", limit_ms, value, value / limit_ms))
    basis = _basis(candidate.latency_p95_ms) if latency_known else ""
    if misses:
        told = [miss.sentence() for miss in misses]
        if basis and misses[-1].limit == "latency_p95_ms":
            told[-1] += f", {basis}"
        return Judgement(candidate, Verdict.MISSES, tuple(misses), "; ".join(told))
    unproven = _unproven(candidate, profile, latency_known=latency_known)
    verdict = Verdict.UNPROVEN if unproven else Verdict.FITS
    said = [*([f"its latency is {basis}"] if basis else []), *unproven]
    lost = _unsaid(candidate, profile)
    if lost is None:
        return Judgement(candidate, verdict, reason="; ".join(said))
    is_silent = _is_silent(profile)
    allows = "on which the profile sets no limit" if is_silent else "which its metric_floor allows"
    measured = number(candidate.metric_drop or 0.0)
    said.append(f"it may lose {number(lost.loss)} of the metric ({measured} as measured), {allows}")
    unasked_points = lost.points if is_silent else None
    return Judgement(candidate, verdict, reason="; ".join(said), unsaid_loss=lost.loss, unasked_points=unasked_points)


def number(value: float) -> str:
    """A figure for people."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004  where decimals stop to matter


def refuse(judgements: Sequence[Judgement], profile: DeviceProfile) -> RefusedProfile:
    """Why a profile gets nothing: the limit that binds on the candidate that came nearest."""
    missing = [judgement for judgement in judgements if judgement.misses]
    if not missing:
        reason = judgements[0].reason if judgements else "none of the recipes makes a file that they load"
        return RefusedProfile(
            limit="runtimes",
            allowed=0,
            nearest=0,
            sentence=f"no variant runs on the runtimes of {profile.name}: {reason}",
        )
    nearest = min(missing, key=lambda j: (max(m.excess for m in j.misses), j.candidate.variant_id))
    worst = max(nearest.misses, key=lambda m: m.excess)
    allowed = f"{number(worst.allowed)}{' where it sets no limit' if worst.unasked else ''}"
    return RefusedProfile(
        limit=worst.limit,
        allowed=worst.allowed,
        nearest=worst.value,
        nearest_variant_id=nearest.candidate.variant_id,
        sentence=(
            f"no variant fits {profile.name}: {worst.limit} may be {allowed}, "
            f"and the nearest miss ({nearest.candidate.variant_id}) has {number(worst.value)}"
        ),
    )


def _is_known(latency: Figure | None, profile: DeviceProfile, host_cpu_model: str | None) -> bool:
    """Whether a latency can be held against the limit: one that is predicted, if all of its interval is on one side."""
    if latency is None:
        return False
    if latency.origin is Origin.HOST:
        return host_cpu_model is not None and host_cpu_model == profile.cpu.model
    if latency.origin is Origin.PREDICTED:
        limit_ms, (low, high) = profile.limits.latency_p95_ms, _ends(latency)
        return limit_ms is not None and not low <= limit_ms < high
    return True


def _ends(figure: Figure) -> tuple[float, float]:
    return (
        figure.value if figure.low is None else figure.low,
        figure.value if figure.high is None else figure.high,
    )


def _unproven(candidate: Candidate, profile: DeviceProfile, *, latency_known: bool) -> list[str]:
    """What nobody knows of a candidate, and the profile limits."""
    limits, found = profile.limits, []
    if limits.latency_p95_ms is not None and not latency_known:
        found.append(_unknown(candidate.latency_p95_ms, profile))
    if limits.ram_bytes is not None and candidate.ram_bytes is None:
        found.append("its memory is not known")
    return [f"{one}: the first device's self-test decides" for one in found]


def _unknown(latency: Figure | None, profile: DeviceProfile) -> str:
    if latency is None or latency.origin is not Origin.PREDICTED:
        return f"its latency on {profile.cpu.model} is not known"
    low, high = _ends(latency)
    return f"its latency on {profile.cpu.model}, {_basis(latency)}, is {number(low)} to {number(high)} ms"


def _basis(latency: Figure | None) -> str:
    """What a prediction stands on; empty of what is none."""
    if latency is None or latency.origin is not Origin.PREDICTED:
        return ""
    count = latency.device_variants
    if count is None:
        return "predicted from published figures"
    variants = "variant" if count == 1 else "variants"
    return f"predicted from {count} {variants} that devices of this profile measured"


def _misses(candidate: Candidate, profile: DeviceProfile, metric: Metric) -> list[Miss]:
    limits = profile.limits
    at_most = [
        ("metric_max_drop", limits.metric_max_drop, candidate.metric_drop),
        ("ram_bytes", limits.ram_bytes or profile.ram_bytes, candidate.ram_bytes),
        ("download_bytes", limits.download_bytes, candidate.download_bytes),
        ("storage_bytes", limits.storage_bytes or profile.storage_bytes, candidate.storage_bytes),
        ("operators_off_npu", _allowed_off_npu(profile), candidate.operators_off_npu),
    ]
    misses = [
        Miss(name, float(allowed), float(value), _excess(float(value), float(allowed)))
        for name, allowed, value in at_most
        if allowed is not None and value is not None and value > allowed
    ]
    lost = candidate.metric_drop if candidate.metric_drop_at_least is None else candidate.metric_drop_at_least
    if _is_silent(profile) and candidate.metric_point is not None and lost is not None:
        most = UNASKED_POINTS * candidate.metric_point
        if lost > most:
            misses.append(Miss("metric_max_drop", most, lost, _excess(lost, most), unasked=True))
    floor = limits.metric_floor
    if floor is not None and candidate.metric is not None:
        worse = candidate.metric < floor if metric.higher_is_better else candidate.metric > floor
        if worse:
            excess = 1.0 + _share(abs(candidate.metric - floor), floor)
            misses.append(Miss("metric_floor", floor, candidate.metric, excess))
    return misses


def _is_silent(profile: DeviceProfile) -> bool:
    return profile.limits.metric_max_drop is None and profile.limits.metric_floor is None


class _Lost(NamedTuple):
    loss: float  # in units of the metric
    points: float


def _unsaid(candidate: Candidate, profile: DeviceProfile) -> _Lost | None:
    """What may be lost, where that is more than goes without a limit and none is set on it."""
    point = candidate.metric_point
    lost = candidate.metric_drop if candidate.metric_drop_at_most is None else candidate.metric_drop_at_most
    if profile.limits.metric_max_drop is not None or point is None or lost is None or lost <= UNSAID_POINTS * point:
        return None
    return _Lost(lost, lost / point if point > 0 else float("inf"))


def _allowed_off_npu(profile: DeviceProfile) -> int | None:
    return None if profile.npu is None or profile.npu.cpu_fallback else 0


def _excess(value: float, allowed: float) -> float:
    return value / allowed if allowed > 0 else 1.0 + value


def _share(distance: float, limit: float) -> float:
    """A distance as a share of the limit: an RMSE in thousands must not outweigh every other limit."""
    return distance / abs(limit) if limit else distance
