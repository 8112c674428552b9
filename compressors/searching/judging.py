"""How trials stand against a profile's limits, and which of them it would get: the rules of `judge` and `choice`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from compressors.building.choice import choose, explain
from compressors.building.judge import Candidate, judge, metric_point, refuse
from compressors.contract import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressors.bootstrap import Estimate
    from compressors.building.judge import Judgement
    from compressors.contract import RefusedProfile, Verdict
    from compressors.metrics import Metric
    from compressors.search_contract import Trial, TrialFigures
    from edge_agent.protocol.profile import DeviceProfile


class Standing(NamedTuple):
    """How a trial stands; the fields are those of a `Trial`."""

    verdict: Verdict
    excesses: dict[str, float]
    unasked_points: float | None = None


@dataclass(frozen=True)
class Bar:
    """What trials are held against."""

    profile: DeviceProfile
    metric: Metric
    float_metric: Estimate  # of the selection split, as all metrics of a search are

    def standing(self, name: str, figures: TrialFigures) -> Standing:
        """How a recipe's file stands against the limits."""
        judgement = self._judged(name, figures)
        excesses = {miss.limit: miss.excess for miss in judgement.misses}
        return Standing(judgement.verdict, excesses, judgement.unasked_points)

    def choose(self, trials: Sequence[Trial]) -> tuple[int | None, str, RefusedProfile | None]:
        """The number of the trial that the profile would get and why, or what is missing."""
        judged: dict[str, tuple[int, Judgement]] = {}
        for trial in trials:
            if trial.figures is not None and trial.recipe.name not in judged:  # the same recipe again is no alternative
                name = f"{trial.recipe.name}-trial{trial.number}"
                judged[trial.recipe.name] = trial.number, self._judged(name, trial.figures)
        judgements = [judgement for _, judgement in judged.values()]
        chosen = choose(judgements)
        if chosen is None:
            return None, "", refuse(judgements, self.profile)
        number = next(number for number, judgement in judged.values() if judgement is chosen)
        return number, explain(judgements, metric=self.metric.name), None

    def _judged(self, name: str, figures: TrialFigures) -> Judgement:
        latency, interval = figures.latency, figures.metric_drop_interval
        candidate = Candidate(
            name,
            error=None,
            latency_p95_ms=latency.predicted_p95_ms or Figure(value=latency.p95_ms),
            host_latency_p50_ms=latency.p50_ms,
            metric=figures.metric.value,
            metric_drop=figures.metric_drop,
            metric_drop_at_least=None if interval is None else interval[0],
            metric_drop_at_most=None if interval is None else interval[1],
            metric_point=metric_point(self.metric, self.float_metric.value),
            ram_bytes=latency.ram_bytes,
            download_bytes=figures.download_bytes,
            storage_bytes=figures.storage_bytes,
            host_latency_interval_ms=latency.p50_interval_ms,
            metric_interval=figures.metric.interval,
            metric_sources=figures.metric_sources,
        )
        return judge(candidate, self.profile, self.metric, host_cpu_model=latency.host_cpu_model)
