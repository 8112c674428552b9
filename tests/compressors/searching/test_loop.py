"""A search is a function of its seed: whether it runs through or is killed, it ends with the same front."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from compressors.contract import Verdict
from compressors.errors import SearchError
from compressors.search_contract import SearchBudget
from compressors.searching.judging import Standing
from compressors.searching.loop import Space, search
from compressors.searching.trials import Journal
from tests.compressors.searching import toy
from tests.compressors.searching.toy import PLAN, SPACE, evaluate, shown, watch

if TYPE_CHECKING:
    from compressors.contract import Recipe
    from compressors.search_contract import Trial, TrialFigures

TOY = Path(toy.__file__)


def run(path: Path, trials: int, *, seed: int = 1) -> list[Trial]:
    return search(SPACE, evaluate, Journal(path, PLAN), SearchBudget(trials=trials), seed=seed, spent=watch())


def test_given_recipes_come_first_and_the_front_beats_them(tmp_path: Path) -> None:
    front = run(tmp_path / "trials", 40)
    trials = Journal(tmp_path / "trials", PLAN).trials
    assert [trial.parameters for trial in trials[:2]] == list(SPACE.first)
    assert len(trials) == 40
    assert all(trial.fits for trial in front)  # the float network misses the limit
    assert min(trial.figures.latency.p50_ms for trial in front if trial.figures) < 3.0  # 5 of the given ones


def test_same_seed_gives_the_same_trials_and_another_one_others(tmp_path: Path) -> None:
    first, again, other = run(tmp_path / "a", 25), run(tmp_path / "b", 25), run(tmp_path / "c", 25, seed=2)
    assert shown(first) == shown(again)
    assert shown(first) != shown(other)


def test_search_in_two_halves_ends_as_the_whole_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 30)
    run(tmp_path / "halves", 13)
    assert shown(run(tmp_path / "halves", 30)) == shown(whole)


def test_search_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", 30)
    rng = random.Random(4)
    command = [sys.executable, str(TOY), str(tmp_path / "killed"), "30", "1"]
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=TOY.parents[3])
        while not (tmp_path / "killed").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=TOY.parents[3])
    assert json.loads(ended.stdout) == json.loads(json.dumps(shown(whole)))


def test_line_that_a_kill_cut_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "trials"
    whole = run(path, 12)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert len(Journal(path, PLAN).trials) == 11
    assert shown(run(path, 12)) == shown(whole)


def test_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "trials", 3)
    with pytest.raises(SearchError, match="belongs to another search"):
        Journal(tmp_path / "trials", PLAN.model_copy(update={"profile_sha256": "4" * 64}))
    (tmp_path / "text").write_text("something\nelse\n")
    with pytest.raises(SearchError, match="no journal of a search"):
        Journal(tmp_path / "text", PLAN)


def test_refused_recipe_is_a_trial_with_a_sentence(tmp_path: Path) -> None:
    run(tmp_path / "trials", 60)
    refused = [trial for trial in Journal(tmp_path / "trials", PLAN).trials if trial.refusal]
    assert refused
    assert {trial.refusal for trial in refused} == {"nothing is left"}


def test_recipe_that_comes_again_is_not_built_again(tmp_path: Path) -> None:
    seen: list[str] = []

    def counting(recipe: Recipe) -> tuple[TrialFigures, Standing]:
        seen.append(recipe.model_dump_json())
        return evaluate(recipe)

    twice = Space(SPACE.suggest, first=(*SPACE.first, SPACE.first[0]))
    search(twice, counting, Journal(tmp_path / "trials", PLAN), SearchBudget(trials=3), seed=1, spent=watch())
    assert len(seen) == 2


def test_budget_of_time_cuts_the_running_trial(tmp_path: Path) -> None:
    def endless(recipe: Recipe) -> tuple[TrialFigures, Standing]:
        if recipe.steps[0].step == "quantize":
            while True:
                time.sleep(0.01)
        return evaluate(recipe)

    journal = Journal(tmp_path / "trials", PLAN)
    front = search(SPACE, endless, journal, SearchBudget(seconds=1.5), seed=1, spent=watch())
    assert [trial.number for trial in journal.trials] == [0]
    assert front == journal.trials


def test_search_that_may_stop_early_stops_after_the_given_recipes_once_the_limits_are_met(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials", PLAN)
    search(SPACE, evaluate, journal, SearchBudget(trials=50, until_fits=True), seed=1, spent=watch())
    assert len(journal.trials) == 2
    assert journal.trials[1].fits


def test_search_that_may_stop_early_goes_on_while_nothing_is_proven(tmp_path: Path) -> None:
    def elsewhere(recipe: Recipe) -> tuple[TrialFigures, Standing]:
        figures, standing = evaluate(recipe)
        return figures, Standing(Verdict.UNPROVEN if standing.verdict is Verdict.FITS else standing.verdict, {})

    journal = Journal(tmp_path / "trials", PLAN)
    front = search(SPACE, elsewhere, journal, SearchBudget(trials=5, until_fits=True), seed=1, spent=watch())
    assert len(journal.trials) == 5
    assert front, "and it may be offered all the same"


def sparing_evaluate(recipe: Recipe) -> tuple[TrialFigures, Standing]:
    """The profile of this one is silent about the metric."""
    figures, standing = evaluate(recipe)
    lost = figures.metric_drop / 0.01
    return figures, standing._replace(unasked_points=lost if lost > 0.5 else None)


def test_front_leaves_out_what_loses_more_than_a_silent_profile_is_given(tmp_path: Path) -> None:
    bounded, free = Journal(tmp_path / "bounded", PLAN), Journal(tmp_path / "free", PLAN)
    front = search(SPACE, sparing_evaluate, bounded, SearchBudget(trials=40), seed=1, spent=watch())
    anything = search(SPACE, evaluate, free, SearchBudget(trials=40), seed=1, spent=watch())
    least = min(trial.figures.metric_drop for trial in bounded.trials if trial.fits and trial.figures)
    assert [trial.figures.metric_drop for trial in front if trial.figures] == pytest.approx([least])
    assert any(trial.figures.metric_drop > 0.1 for trial in anything if trial.figures)


def test_search_that_may_stop_early_goes_on_while_all_that_fit_lose_too_much(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials", PLAN)
    search(SPACE, sparing_evaluate, journal, SearchBudget(trials=4, until_fits=True), seed=1, spent=watch())
    assert journal.trials[1].fits
    assert len(journal.trials) == 4


def test_search_whose_seconds_are_spent_tries_nothing_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials", PLAN)
    search(SPACE, evaluate, journal, SearchBudget(seconds=60.0), seed=1, spent=lambda: 60.0)
    assert journal.trials == []


def test_fewer_trials_than_were_tried_give_the_front_of_the_fewer(tmp_path: Path) -> None:
    few = run(tmp_path / "few", 6)
    run(tmp_path / "more", 20)
    assert shown(run(tmp_path / "more", 6)) == shown(few)


def test_search_that_cannot_go_on_ends_with_the_sentence_and_keeps_no_trial(tmp_path: Path) -> None:
    def hopeless(_recipe: Recipe) -> tuple[TrialFigures, Standing]:
        raise SearchError("there is no latency of this recipe")

    journal = Journal(tmp_path / "trials", PLAN)
    with pytest.raises(SearchError, match="no latency of this recipe"):
        search(SPACE, hopeless, journal, SearchBudget(trials=2), seed=1, spent=watch())
    assert journal.trials == []
