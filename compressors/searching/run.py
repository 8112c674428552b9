"""A search: load -> look at the model -> try recipes -> choose -> build the front; see `SearchRequest`."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from compressors.building.run import run_build
from compressors.contract import BuildRequest, FrontLine, ProgressLine
from compressors.errors import SearchError
from compressors.inputs import loading
from compressors.metrics import metric_for
from compressors.recipes import recipe_hash, recipes_of
from compressors.search_contract import SearchResult
from compressors.searching.clock import stopwatch
from compressors.searching.evaluation import Evaluation, context_of, forms_of
from compressors.searching.facts import facts_of
from compressors.searching.judging import Bar
from compressors.searching.loop import front_of, offered, search
from compressors.searching.materials import materials_of
from compressors.searching.space import space_of
from compressors.searching.trials import Journal, alone, plan_of
from compressors.training.device import device_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from compressors.contract import BuildResult, Recipe
    from compressors.search_contract import SearchRequest, Trial, TrialFigures
    from compressors.searching.facts import Facts
    from compressors.searching.judging import Standing

    Progress = Callable[[ProgressLine], None]

SHOWN = 8  # trials of the running front: a line of progress is short
BUILT = 4  # recipes of the front that become variants, beside the usual ones
SPACE = "space-10"  # another word with each change of what is suggested or kept: old journals then begin anew
JOURNALS = "searches"  # folder of the cache


def run_search(request: SearchRequest, on_progress: Progress = lambda _line: None) -> SearchResult:
    """Search; see `compressors.search`."""
    if request.budget.seconds is not None and threading.current_thread() is not threading.main_thread():
        raise SearchError("a budget of seconds ends a search by a signal: call it in the main thread, or bound trials")
    with tempfile.TemporaryDirectory() as folder:
        if request.cache_dir is None:  # trials share what they begin with alike
            request = request.model_copy(update={"cache_dir": Path(folder) / "cache"})
        return Search(request, Path(folder), on_progress).run()


class Search:
    """One search."""

    def __init__(self, request: SearchRequest, folder: Path, on_progress: Progress) -> None:
        self._request, self._folder, self._on_progress = request, folder, on_progress
        self._front: list[Trial] = []
        self._trials, self._began = 0, time.monotonic()
        self._spent: Callable[[], float] = lambda: time.monotonic() - self._began  # until the earlier runs are known

    def run(self) -> SearchResult:
        """Search, and build what was found where the request names a folder for it."""
        request = self._request
        device_for(request.device)  # refuses before anything is computed
        metric = metric_for(request.inputs.metric, request.inputs.task)
        self._say("loading the model and its data")
        materials = materials_of(request.inputs, metric)
        bar = Bar(request.profile, materials.metric, materials.float_metric)
        forms = forms_of(request.profile, request.pythons)
        self._say("looking for sensitive layers")
        facts = facts_of(materials.network, context_of(request, materials, bar), forms)
        inputs_sha256 = loading.sha256_of(request.inputs)
        evaluation = Evaluation(request, materials, bar, inputs_sha256=inputs_sha256, folder=self._folder)
        plan = plan_of(request, inputs_sha256=inputs_sha256, space_sha256=f"{SPACE} {facts.sha256}")
        with (
            alone((request.cache_dir or self._folder) / JOURNALS, plan) as path,
            stopwatch(path.with_suffix(".seconds"), began=self._began) as self._spent,
        ):
            trials = self._search(facts, evaluation, Journal(path, plan))
        best, reason, refusal = bar.choose(trials)
        result = SearchResult(
            metric=metric.name,
            float_metric=materials.float_metric.figure,
            seed=request.seed,
            trials=tuple(trials),
            front=tuple(trial.number for trial in front_of(trials)),
            best=best,
            reason=reason,
            refusal=refusal,
            latencies={recipe_hash(one.recipe): one.figures.latency for one in trials if one.figures},
            notes=tuple(_notes(request, facts)),
        )
        return result if request.output_dir is None else result.model_copy(update={"build": self._build(result)})

    def _search(self, facts: Facts, evaluation: Evaluation, journal: Journal) -> list[Trial]:
        """The trials; as many as were asked for, where an earlier run has tried more."""
        self._take_up(journal)
        search(
            space_of(facts),
            lambda recipe: self._evaluated(evaluation, recipe),
            journal,
            self._request.budget,
            seed=self._request.seed,
            spent=self._spent,
            on_trial=self._tried,
        )
        return journal.trials[: self._request.budget.trials]

    def _evaluated(self, evaluation: Evaluation, recipe: Recipe) -> tuple[TrialFigures, Standing]:
        self._say(" > ".join(spec.step for spec in recipe.steps))
        return evaluation(recipe)

    def _take_up(self, journal: Journal) -> None:
        """Begin where an earlier run of the same search has ended."""
        trials = journal.trials[: self._request.budget.trials]
        self._front, self._trials = front_of(trials), len(trials)

    def _tried(self, trial: Trial, front: Sequence[Trial]) -> None:
        self._front, self._trials = list(front), trial.number + 1
        self._say(trial.recipe.name)

    def _say(self, stage: str) -> None:
        """Trials of trials, or seconds of seconds."""
        budget = self._request.budget
        spent, of = self._trials, budget.trials or 0
        if budget.trials is None and budget.seconds is not None:
            spent, of = int(self._spent()), int(budget.seconds)
        self._on_progress(ProgressLine(stage=stage, done=spent, of=of, front=tuple(_lines(self._front))))

    def _build(self, result: SearchResult) -> BuildResult:
        """Variants of what was found, judged with the test split, and of the usual recipes: no profile gets less."""
        request = self._request
        if request.output_dir is None:
            raise SearchError("there is no folder for the variants: name an output_dir")
        self._say("building what was found")
        return run_build(
            BuildRequest(
                inputs=request.inputs,
                profiles=(request.profile,),
                recipes=tuple(worth_building(request, result)),
                pythons=request.pythons,
                output_dir=request.output_dir,
                cache_dir=request.cache_dir,
                host_cpu_model=request.host_cpu_model,
                device_figures=request.device_figures,
                threads=request.threads,
                seed=request.seed,
                device=request.device,
            ),
            lambda line: self._on_progress(line.model_copy(update={"front": tuple(_lines(self._front))})),
        )


def _lines(front: Sequence[Trial]) -> Iterator[FrontLine]:
    """The fastest trials of the front."""
    known = [(trial, trial.figures) for trial in front if trial.figures is not None]
    for trial, figures in sorted(known, key=lambda one: one[1].objectives)[:SHOWN]:
        predicted = figures.latency.predicted_p95_ms
        yield FrontLine(
            trial=trial.number,
            recipe=trial.recipe.name,
            latency_p50_ms=figures.latency.p50_ms,
            predicted_p95_ms=None if predicted is None else predicted.value,
            download_bytes=figures.download_bytes,
            metric=figures.metric.value,
            metric_drop=figures.metric_drop,
            verdict=trial.verdict,
        )


def worth_building(request: SearchRequest, result: SearchResult) -> Iterator[Recipe]:
    """The best trial, the fastest of the others that may be offered or miss least, and the usual recipes."""
    known = offered(result.trials)
    found = sorted(known, key=lambda one: (one.number != result.best, *_nearness(one, result)))[:BUILT]
    recipes = [trial.recipe for trial in found]
    yield from recipes
    taken = {recipe.name for recipe in recipes}
    yield from (recipe for recipe in recipes_of((), (request.profile,)) if recipe.name not in taken)


def _nearness(trial: Trial, result: SearchResult) -> tuple[float, bool, tuple[float, ...], int]:
    objectives = trial.figures.objectives if trial.figures is not None else ()
    return max(trial.excesses.values(), default=0.0), trial.number not in result.front, objectives, trial.number


def _notes(request: SearchRequest, facts: Facts) -> Iterator[str]:
    if not facts.has_layers:
        yield "the model was pushed as a file and has no layers: only its number formats were tried"
    elif request.inputs.train_path is None:
        yield "there is no training data (push it with --train): steps that train were not tried"
    elif not facts.epochs:
        yield "an epoch of training takes longer than a trial may: steps that train were not tried"
