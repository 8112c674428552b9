"""The next recipe to try: a pure function of the seed, the number of the trial, and the trials before it.

Each trial has a sampler of its own, seeded by (seed, number): a search that was killed goes on as if it had not been.
Source: Watanabe 2023, arXiv:2304.11127 (tree-structured Parzen estimators, as Optuna has them).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import optuna

from compressors.recipes import recipe_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import JsonValue

    from compressors.contract import Recipe
    from compressors.search_contract import Trial

    Suggest = Callable[[optuna.trial.BaseTrial], Recipe]
    Choices = dict[str, JsonValue]

STARTUP_TRIALS = 8  # at random, before the estimator knows enough
ATTEMPTS = 8  # at a recipe that was not tried before
REFUSED = 10.0  # a recipe without figures counts as this far beyond every limit
OBJECTIVES = 3


def propose(suggest: Suggest, before: Sequence[Trial], *, seed: int, number: int) -> tuple[Recipe, Choices]:
    """A recipe, and what the sampler chose to make it; one that was tried already only where it has no other left.

    Args:
        suggest: makes a recipe out of what it asks a trial for.
        before: all trials so far.
        seed: of the search.
        number: of this trial.
    """
    tried = {recipe_hash(trial.recipe) for trial in before}
    for attempt in range(ATTEMPTS):
        at_random = number < STARTUP_TRIALS or attempt >= ATTEMPTS // 2  # the estimator may know one answer only
        recipe, choices = _proposed(suggest, before, _seed(seed, number, attempt), at_random=at_random)
        if recipe_hash(recipe) not in tried:
            break
    return recipe, choices


def _proposed(suggest: Suggest, before: Sequence[Trial], seed: int, *, at_random: bool) -> tuple[Recipe, Choices]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.RandomSampler(seed=seed)
        if at_random
        else optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, multivariate=True)
    )
    study = optuna.create_study(directions=["minimize"] * OBJECTIVES, sampler=sampler)
    worst = _worst(before)
    for trial in before:
        study.add_trial(_finished(suggest, trial, worst))
    asked = study.ask()
    return suggest(asked), dict(asked.params)


def told(suggest: Suggest, choices: Mapping[str, JsonValue]) -> tuple[Recipe, Choices]:
    """The recipe of given choices.

    Raises:
        ValueError: the space asks for something that is not among them.
    """
    fixed = optuna.trial.FixedTrial(dict(choices))
    return suggest(fixed), dict(fixed.params)


def _seed(seed: int, number: int, attempt: int) -> int:
    return int.from_bytes(hashlib.sha256(f"shoal-search-{seed}-{number}-{attempt}".encode()).digest()[:4])


def _worst(trials: Sequence[Trial]) -> list[float]:
    known = [trial.figures.objectives for trial in trials if trial.figures is not None]
    return [max(column) for column in zip(*known, strict=True)] or [1.0] * OBJECTIVES


def _finished(suggest: Suggest, trial: Trial, worst: list[float]) -> optuna.trial.FrozenTrial:
    """A trial as the estimator wants to see it; its distributions are asked of the space again."""
    fixed = optuna.trial.FixedTrial(dict(trial.parameters))
    suggest(fixed)
    beyond = {name: excess - 1.0 for name, excess in trial.excesses.items()}
    if trial.unasked_points is not None:
        beyond["unasked_points"] = trial.unasked_points
    return optuna.trial.create_trial(
        values=worst if trial.figures is None else trial.figures.objectives,
        params=fixed.params,
        distributions=fixed.distributions,
        constraints=beyond if trial.figures is not None else {"refused": REFUSED},
    )
