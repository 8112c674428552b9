"""Hold candidates against a profile's limits, and choose. Pure: figures in, verdicts and one choice (or a refusal) out.

A latency that was measured on another CPU never satisfies a limit: such a candidate is `unproven`, and the self-test
on the first device decides. Among the candidates that may be chosen the fastest on the host wins; within 10 % of it
the smaller download does, because a host says no more than that about another core.

A profile that sets no limit on the metric still gets no broken model: a candidate is refused when even the favourable
end of its 95 % interval loses more than `UNASKED_DROP`. tflite-runtime 2.14 runs dynamic int8 files without an error,
and answers nonsense: top-1 fell from 0.92 to 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressors.contract import Origin, RefusedProfile, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressors.contract import Figure
    from compressors.metrics import Metric
    from edge_agent.protocol.profile import DeviceProfile

EQUALLY_FAST = 1.10
EQUALLY_FAST_MS = 0.02  # below that a difference is the clock's
UNASKED_DROP = 0.02  # of a metric between 0 and 1; for the others this share of the float model's value


@dataclass(frozen=True)
class Candidate:
    """A variant as the judge sees it. None: not known. Metric and drop are those of the selection split."""

    variant_id: str
    error: str | None
    latency_p95_ms: Figure | None
    host_latency_p50_ms: float | None  # for ranking only: a busy host moves the p95 of one candidate, not of another
    metric: float | None
    metric_drop: float | None
    metric_drop_at_least: float | None  # the drop at the favourable end of the metric's interval
    unasked_drop: float | None  # what may be lost where the profile sets no limit on the metric
    ram_bytes: int | None
    download_bytes: int | None
    storage_bytes: int | None


@dataclass(frozen=True)
class Miss:
    """A limit that a candidate does not meet; `excess` is how far off it is, 1.0 = just met."""

    limit: str
    allowed: float
    value: float
    excess: float

    def sentence(self) -> str:
        """For people."""
        return f"{self.limit} is {_number(self.value)}, the limit is {_number(self.allowed)}"


@dataclass(frozen=True)
class Judgement:
    """The verdict on one candidate."""

    candidate: Candidate
    verdict: Verdict
    misses: tuple[Miss, ...] = ()
    reason: str = ""


def judge(candidate: Candidate, profile: DeviceProfile, metric: Metric, *, host_cpu_model: str | None) -> Judgement:
    """Hold one candidate against the limits of a profile."""
    if candidate.error is not None:
        return Judgement(candidate, Verdict.UNMEASURED, reason=candidate.error)
    misses = _misses(candidate, profile, metric)
    latency_known = _is_known(candidate.latency_p95_ms, profile, host_cpu_model)
    limit_ms = profile.limits.latency_p95_ms
    if limit_ms is not None and latency_known and candidate.latency_p95_ms is not None:
        value = candidate.latency_p95_ms.value
        if value > limit_ms:
            misses.append(Miss("latency_p95_ms", limit_ms, value, value / limit_ms))
    if misses:
        return Judgement(candidate, Verdict.MISSES, tuple(misses), "; ".join(miss.sentence() for miss in misses))
    if limit_ms is not None and not latency_known:
        return Judgement(
            candidate,
            Verdict.UNPROVEN,
            reason=f"its latency on {profile.cpu.model} is not known: the first device's self-test decides",
        )
    return Judgement(candidate, Verdict.FITS)


def choose(judgements: Sequence[Judgement]) -> Judgement | None:
    """The candidate that a profile gets: what fits before what is unproven; None when nothing may be chosen."""
    for verdict in (Verdict.FITS, Verdict.UNPROVEN):
        allowed = [judgement for judgement in judgements if judgement.verdict is verdict]
        if allowed:
            speed = _comparable_ms([judgement.candidate for judgement in allowed])
            fastest = min(speed.values())
            bound = max(fastest * EQUALLY_FAST, fastest + EQUALLY_FAST_MS)
            as_fast = [judgement for judgement in allowed if speed[judgement.candidate.variant_id] <= bound]
            return min(as_fast, key=lambda judgement: _rank(judgement.candidate, speed))
    return None


def _comparable_ms(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Latencies that may be set side by side: those of devices if all have one, else those of the host."""
    of_devices = [
        candidate.latency_p95_ms
        for candidate in candidates
        if candidate.latency_p95_ms is not None and candidate.latency_p95_ms.origin is Origin.DEVICE
    ]
    if len(of_devices) == len(candidates):
        return {c.variant_id: figure.value for c, figure in zip(candidates, of_devices, strict=True)}
    unknown = float("inf")
    return {c.variant_id: unknown if c.host_latency_p50_ms is None else c.host_latency_p50_ms for c in candidates}


def _rank(candidate: Candidate, speed: dict[str, float]) -> tuple[float, float, float, str]:
    """Among equally fast ones: the fewest bytes to deliver, then the best metric."""
    return (
        candidate.download_bytes or 0,
        candidate.metric_drop or 0.0,
        speed[candidate.variant_id],
        candidate.variant_id,
    )


def refuse(judgements: Sequence[Judgement], profile: DeviceProfile) -> RefusedProfile:
    """Why a profile gets nothing: the limit that binds on the candidate that came nearest."""
    missing = [judgement for judgement in judgements if judgement.misses]
    if not missing:
        reason = judgements[0].reason if judgements else "no recipe was tried"
        return RefusedProfile(
            limit="runtimes",
            allowed=0,
            nearest=0,
            sentence=f"no variant runs on the runtimes of {profile.name}: {reason}",
        )
    nearest = min(missing, key=lambda j: (max(m.excess for m in j.misses), j.candidate.variant_id))
    worst = max(nearest.misses, key=lambda m: m.excess)
    return RefusedProfile(
        limit=worst.limit,
        allowed=worst.allowed,
        nearest=worst.value,
        nearest_variant_id=nearest.candidate.variant_id,
        sentence=(
            f"no variant fits {profile.name}: {worst.limit} may be {_number(worst.allowed)}, "
            f"and the nearest miss ({nearest.candidate.variant_id}) has {_number(worst.value)}"
        ),
    )


def _is_known(latency: Figure | None, profile: DeviceProfile, host_cpu_model: str | None) -> bool:
    if latency is None:
        return False
    if latency.origin is Origin.HOST:
        return host_cpu_model is not None and host_cpu_model == profile.cpu.model
    return True


def _misses(candidate: Candidate, profile: DeviceProfile, metric: Metric) -> list[Miss]:
    limits = profile.limits
    at_most = [
        ("metric_max_drop", limits.metric_max_drop, candidate.metric_drop),
        ("ram_bytes", limits.ram_bytes or profile.ram_bytes, candidate.ram_bytes),
        ("download_bytes", limits.download_bytes, candidate.download_bytes),
        ("storage_bytes", limits.storage_bytes or profile.storage_bytes, candidate.storage_bytes),
    ]
    if limits.metric_max_drop is None and limits.metric_floor is None:
        at_most.append(("metric_max_drop", candidate.unasked_drop, candidate.metric_drop_at_least))
    misses = [
        Miss(name, float(allowed), float(value), _excess(float(value), float(allowed)))
        for name, allowed, value in at_most
        if allowed is not None and value is not None and value > allowed
    ]
    floor = limits.metric_floor
    if floor is not None and candidate.metric is not None:
        worse = candidate.metric < floor if metric.higher_is_better else candidate.metric > floor
        if worse:
            excess = 1.0 + _share(abs(candidate.metric - floor), floor)
            misses.append(Miss("metric_floor", floor, candidate.metric, excess))
    return misses


def _excess(value: float, allowed: float) -> float:
    return value / allowed if allowed > 0 else 1.0 + value


def _share(distance: float, limit: float) -> float:
    """A distance as a share of the limit: an RMSE in thousands must not outweigh every other limit."""
    return distance / abs(limit) if limit else distance


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004  where decimals stop to matter
