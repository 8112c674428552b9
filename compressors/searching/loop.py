"""Try one recipe after the other until the budget is spent or the limits are met; a kill loses the running trial."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressors.building.judge import sparing
from compressors.errors import CompressorError, SearchError
from compressors.recipes import recipe_hash
from compressors.search_contract import Trial
from compressors.searching.clock import OutOfTimeError, time_limit
from compressors.searching.front import pareto_front
from compressors.searching.sampling import propose, told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import JsonValue

    from compressors.contract import Recipe
    from compressors.search_contract import SearchBudget, TrialFigures
    from compressors.searching.judging import Standing
    from compressors.searching.sampling import Suggest
    from compressors.searching.trials import Journal

    Evaluate = Callable[[Recipe], tuple[TrialFigures, Standing]]


@dataclass(frozen=True)
class Space:
    """The recipes that a search chooses from. `first`: choices that are always tried, in their order."""

    suggest: Suggest
    first: tuple[Mapping[str, JsonValue], ...] = ()


def search(
    space: Space,
    evaluate: Evaluate,
    journal: Journal,
    budget: SearchBudget,
    *,
    seed: int,
    spent: Callable[[], float],
    on_trial: Callable[[Trial, Sequence[Trial]], None] = lambda _trial, _front: None,
) -> list[Trial]:
    """The front of the trials that the journal holds at the end; of one that holds more, of as many as were asked for.

    Args:
        space: what may be tried.
        evaluate: builds and measures a recipe; a `CompressorError` is a trial that was refused.
        journal: of this search; what it holds already is not tried again.
        budget: when to end.
        seed: of the sampler.
        spent: the seconds of all runs of the search so far.
        on_trial: is told each new trial, and the front with it.

    Raises:
        SearchError: `evaluate` says that the search can't go on.
    """
    while not _is_spent(budget, journal.trials, given=len(space.first), seconds=spent()):
        try:
            with time_limit(None if budget.seconds is None else budget.seconds - spent()):
                trial = _next(space, evaluate, journal.trials, seed=seed)
        except OutOfTimeError:
            break
        journal.add(trial)
        on_trial(trial, front_of(journal.trials))
    return front_of(journal.trials[: budget.trials])


def offered(trials: Sequence[Trial]) -> list[Trial]:
    """Those that a profile may get: they meet the limits, and lose little; where none does, all that have figures."""
    fitting = [trial for trial in trials if trial.fits]
    return sparing(fitting, lambda trial: trial.unasked_points) or [trial for trial in trials if trial.figures]


def front_of(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other beats, of those that may be offered."""
    return pareto_front(offered(trials), _objectives)


def _objectives(trial: Trial) -> tuple[float, ...]:
    return () if trial.figures is None else trial.figures.objectives


def _is_spent(budget: SearchBudget, trials: Sequence[Trial], *, given: int, seconds: float) -> bool:
    if budget.trials is not None and len(trials) >= budget.trials:
        return True
    if budget.seconds is not None and seconds >= budget.seconds:
        return True
    return budget.until_fits and len(trials) >= given and any(trial.meets_all for trial in trials)


def _next(space: Space, evaluate: Evaluate, before: Sequence[Trial], *, seed: int) -> Trial:
    number = len(before)
    if number < len(space.first):
        recipe, parameters = told(space.suggest, space.first[number])
    else:
        recipe, parameters = propose(space.suggest, before, seed=seed, number=number)
    known = recipe_hash(recipe)
    earlier = next((trial for trial in before if recipe_hash(trial.recipe) == known), None)
    if earlier is not None:  # the same again: the sampler learns that it gained nothing
        return earlier.model_copy(update={"number": number, "parameters": parameters, "seconds": 0.0})
    began = time.monotonic()
    try:
        figures, standing = evaluate(recipe)
    except SearchError:
        raise
    except CompressorError as exc:
        refusal = str(exc)
        return _trial(number, parameters, recipe, began, refusal=refusal)
    return _trial(number, parameters, recipe, began, figures=figures, **standing._asdict())


def _trial(number: int, parameters: dict[str, JsonValue], recipe: Recipe, began: float, **result: object) -> Trial:
    return Trial.model_validate(
        {"number": number, "parameters": parameters, "recipe": recipe, "seconds": time.monotonic() - began, **result}
    )
