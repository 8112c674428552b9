"""A search whose evaluation is arithmetic; `python toy.py JOURNAL TRIALS SEED` runs it, and prints its front."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.contract import Figure, Recipe, StepSpec, Verdict
from compressors.errors import NoEffectError
from compressors.search_contract import Latency, SearchBudget, Trial, TrialFigures
from compressors.searching.judging import Standing
from compressors.searching.loop import Space, search
from compressors.searching.trials import Journal, Plan
from edge_agent.protocol.profile import Delegate, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna

PLAN = Plan(inputs_sha256="1" * 64, profile_sha256="3" * 64, seed=1, space_sha256="2" * 64)


def suggest(trial: optuna.trial.BaseTrial) -> Recipe:
    steps = []
    if (keep := trial.suggest_float("keep", 0.2, 1.0)) < 1:
        steps.append(StepSpec(step="prune", parameters={"keep": round(keep, 3)}))
    bits = trial.suggest_categorical("bits", [4, 8, 32])
    if bits != 32:
        steps.append(StepSpec(step="quantize", parameters={"bits": bits, "bias": trial.suggest_int("bias", 0, 1)}))
    return Recipe(name="toy", steps=(*steps, StepSpec(step="export")))


SPACE = Space(suggest, first=({"keep": 1.0, "bits": 32}, {"keep": 1.0, "bits": 8, "bias": 0}))


def evaluate(recipe: Recipe) -> tuple[TrialFigures, Standing]:
    """Small is fast and wrong; 4 bits of a pruned network are refused; the limit is 6 ms, and any loss is allowed."""
    found: dict[str, Any] = {name: value for spec in recipe.steps for name, value in spec.parameters.items()}
    keep, bits, bias = found.get("keep", 1.0), found.get("bits", 32), found.get("bias", 0)
    if bits == 4 and keep < 0.4:
        raise NoEffectError("nothing is left")
    latency = 10.0 * keep * (0.5 if bits <= 8 else 1.0)
    drop = (1 - keep) ** 2 + {32: 0.0, 8: 0.02, 4: 0.2}[bits] * (0.5 if bias else 1.0)
    figures = TrialFigures(
        latency=Latency(runtime=RuntimeName.LITERT, delegate=Delegate.XNNPACK, p50_ms=latency, p95_ms=latency),
        raw_bytes=int(1000 * keep * bits),
        download_bytes=int(1000 * keep * bits),
        storage_bytes=int(1000 * keep * bits),
        metric=Figure(value=1 - drop),
        metric_drop=drop,
    )
    if latency > 6:
        return figures, Standing(Verdict.MISSES, {"latency_p95_ms": latency / 6.0})
    return figures, Standing(Verdict.FITS, {})


def slow(recipe: Recipe) -> tuple[TrialFigures, Standing]:
    time.sleep(0.02)
    return evaluate(recipe)


def watch() -> Callable[[], float]:
    """The seconds of a search that begins now."""
    began = time.monotonic()
    return lambda: time.monotonic() - began


def shown(front: list[Trial]) -> list[Any]:
    return [[trial.number, trial.parameters, trial.figures and trial.figures.objectives] for trial in front]


if __name__ == "__main__":
    journal = Journal(Path(sys.argv[1]), PLAN)
    found = search(SPACE, slow, journal, SearchBudget(trials=int(sys.argv[2])), seed=int(sys.argv[3]), spent=watch())
    sys.stdout.write(json.dumps(shown(found)))
