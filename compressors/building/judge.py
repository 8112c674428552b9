"""Hold candidates against a profile's limits. Pure: figures in, verdicts (or a refusal) out; `choice` picks one.

A latency that was measured on another CPU never satisfies a limit, and one that is predicted only if its whole interval
does: else such a candidate is `unproven`, and the self-test on the first device decides. So is one whose memory nobody
has measured, because every device has an end of it, and a file for an NPU. What devices have run there is proven.
Memory counts whichever CPU it was measured on.

A limit on the metric is held against what was measured, and a candidate that may break it all the same says so and
gives way to what surely keeps it (`sparing`). May: at the unfavourable end of the 95 % interval, because of hundreds
that a search tries on a few hundred rows some lose nothing by luck (5 to 7 points on other rows of phishing pages).
The interval of a loss is that of the difference on the same rows, far narrower than those of the two metrics.

On few independent sources (photos, users, queries, or rows where none are named) it is too narrow, and of no width
where nothing changed: a nominal 95 % interval held the truth in 66 to 90 % of draws of 3 to 10 sources. There nothing
is sure but what answers as the float model does. Of a share of decisions, n sources that show nothing leave 3/n open
(the rule of three: Hanley and Lippman-Hand 1983); that is said, and no reason to give way.

A profile that sets no limit on the metric asks for the float model's answers: there half a point may be lost. One that
loses more than two points even at the favourable end is broken, and refused: tflite-runtime 2.14 runs dynamic int8
files without an error, and answers nonsense: top-1 fell from 0.92 to 0.

A floor says what is good enough, and nothing of the float model: what surely meets it need not give way, but what it
may lose is said all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from compressors.contract import Origin, RefusedProfile, Verdict
from compressors.measuring.fidelity import FEW_SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compressors.contract import Figure
    from compressors.metrics import Metric
    from edge_agent.protocol.profile import DeviceProfile

POINT = 0.01  # of a metric between 0 and 1; for the others this share of the float model's value
UNSAID_POINTS = 0.5  # may be lost without a word where the profile sets no limit on the loss
UNASKED_POINTS = 2.0  # may not surely be lost there at all
UNASKED_DROP = UNASKED_POINTS * POINT
UNSEEN = 3.0  # over the sources: what a share of them may be that none shows

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
    metric_interval: tuple[float, float] | None = None  # 95 %
    metric_sources: int | None = None  # independent ones that tell its drop; None: it answers as the float model does


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
    caveat: str = ""
    """For people, what "it" may lose or may be worth, where that is more, or less, than goes unsaid."""
    unasked_points: float | None = None
    """By how many points of the metric it may break what the profile allows: what makes it give way."""


def sparing(items: Sequence[T], unasked_points: Callable[[T], float | None]) -> list[T]:
    """What may be offered of all that misses no limit: whatever surely keeps to it goes before what may break it.

    Latency is no reason to keep what loses more: the first device's self-test finds out how fast a variant is, and
    nothing finds out later how right it is.

    Args:
        items: candidates that miss no limit, proven or not.
        unasked_points: by how much one may break what the profile allows of the metric; None: it surely does not.

    Returns:
        Those that surely do not; where all may, those within half a point of the one that may by least.
    """
    doubted = [(item, points) for item in items if (points := unasked_points(item)) is not None]
    if len(doubted) < len(items):
        return [item for item in items if unasked_points(item) is None]
    most = min((points for _, points in doubted), default=0.0) + UNSAID_POINTS
    return [item for item, points in doubted if points <= most]


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
    doubts = _doubts(candidate, profile, metric)
    caveat = ", and ".join(doubt.caveat for doubt in doubts)
    said = [*([f"its latency is {basis}"] if basis else []), *unproven, *([f"it {caveat}"] if caveat else [])]
    points = max((doubt.points for doubt in doubts if doubt.points is not None), default=None)
    return Judgement(candidate, verdict, reason="; ".join(said), caveat=caveat, unasked_points=points)


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
    """What nobody knows of a candidate and has to be known; a device that has run it has found out all of it."""
    latency, found = candidate.latency_p95_ms, []
    if latency is not None and latency.origin is Origin.DEVICE:
        return []
    if candidate.operators_off_npu is not None:
        found.append("no device has run it on its NPU")
    else:
        if profile.limits.latency_p95_ms is not None and not latency_known:
            found.append(_unknown(latency, profile))
        if candidate.ram_bytes is None:
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
    return f"predicted from {_count(count, 'variant')} that devices of this profile measured"


def _count(number_of: int, what: str) -> str:
    return f"{number_of} {what}{'' if number_of == 1 else 's'}"


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


class _Doubt(NamedTuple):
    """What a candidate may be at the unfavourable end of an interval."""

    caveat: str
    points: float | None = None  # beyond what the profile allows; None: it allows as much


def _doubts(candidate: Candidate, profile: DeviceProfile, metric: Metric) -> list[_Doubt]:
    found = (_doubted_loss(candidate, profile, metric), _doubted_floor(candidate, profile, metric))
    return [doubt for doubt in found if doubt is not None]


def _doubted_loss(candidate: Candidate, profile: DeviceProfile, metric: Metric) -> _Doubt | None:
    limit, point, drop = profile.limits.metric_max_drop, candidate.metric_point, candidate.metric_drop
    if point is None or drop is None:
        return None
    lost, sources = candidate.metric_drop_at_most, candidate.metric_sources
    lost = drop if lost is None else lost
    allowed = UNSAID_POINTS * point if limit is None else limit
    points = None if limit is None and profile.limits.metric_floor is not None else _points(lost - allowed, point)
    if sources is not None and sources < FEW_SOURCES:
        told = f"may lose more of {metric.name} than was measured ({number(drop)})"
        return _Doubt(f"{told}: how much can't be told from {_count(sources, 'source')}", points)
    if lost > allowed:
        told = f"may lose {number(lost)} of {metric.name} ({number(drop)} as measured)"
        return _Doubt(f"{told}, {_allowance(profile)}", points)
    if metric.counts and sources is not None and UNSEEN / sources > allowed:
        return _Doubt(f"may lose up to {number(UNSEEN / sources)} of {metric.name}, which {sources} sources can't show")
    return None


def _allowance(profile: DeviceProfile) -> str:
    """What a profile says of a loss that is larger than may go unsaid."""
    if profile.limits.metric_max_drop is not None:
        return f"more than the metric_max_drop of {number(profile.limits.metric_max_drop)}"
    if profile.limits.metric_floor is not None:
        return "which the metric_floor allows"
    return "on which the profile sets no limit (metric_max_drop)"


def _doubted_floor(candidate: Candidate, profile: DeviceProfile, metric: Metric) -> _Doubt | None:
    floor, value, interval = profile.limits.metric_floor, candidate.metric, candidate.metric_interval
    if floor is None or value is None or interval is None or candidate.metric_point is None:
        return None
    worst = interval[0] if metric.higher_is_better else interval[1]
    short = metric.loss_against(floor, worst)
    if short <= 0:
        return None
    told = f"may have {number(worst)} of {metric.name} ({number(value)} as measured)"
    return _Doubt(f"{told}, where the metric_floor is {number(floor)}", _points(short, candidate.metric_point))


def _points(amount: float, point: float) -> float:
    """An amount in points, 0 at least; a float model without any error (RMSE 0) leaves no unit but the metric's own."""
    return max(0.0, amount) / (point or 1.0)


def _allowed_off_npu(profile: DeviceProfile) -> int | None:
    return None if profile.npu is None or profile.npu.cpu_fallback else 0


def _excess(value: float, allowed: float) -> float:
    return value / allowed if allowed > 0 else 1.0 + value


def _share(distance: float, limit: float) -> float:
    """A distance as a share of the limit: an RMSE in thousands must not outweigh every other limit."""
    return distance / abs(limit) if limit else distance
