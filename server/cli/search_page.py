"""A search for people: its front while it runs, and what it has found."""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from server.cli.output import (
    job_progress,
    live_on_stderr,
    make_table,
    say,
    show_table,
    text_of_bytes,
    text_of_figure,
    text_of_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.schemas.catalogue import Job
    from server.schemas.search import FrontLine, Search, SearchTrial

RUNNING_COLUMNS: Final = ("trial", "recipe", "p50 ms", "predicted p95", "download", "metric", "drop", "limits")
FOUND_COLUMNS: Final = (
    *("", "trial", "recipe", "p50 ms", "predicted p95", "download", "metric", "drop", "limits", "steps"),
)
LIMITS: Final = {"fits": "met", "unproven": "unproven", "misses": "missed", "unmeasured": "-"}  # by verdict


@contextmanager
def search_screen(label: str) -> "Iterator[Callable[[Job], None]]":
    """A progress bar on stderr, and below it the front as far as it is known."""
    from rich.console import Group  # noqa: PLC0415  `--help` must not wait for it

    with live_on_stderr() as draw:
        bar, advance = job_progress(label)

        def told(job: "Job") -> None:
            advance(job)
            front = [_running_row(line) for line in job.progress.front]
            draw(Group(bar, make_table(RUNNING_COLUMNS, front)) if front else bar)

        yield told


def show_search(search: "Search") -> None:
    """The front, the best marked, and in a sentence why it is."""
    refused = sum(trial.figures is None for trial in search.trials)
    say(
        f"{len(search.trials)} recipes tried, {refused} of them could not be built; {search.metric} of the float model "
        f"on the selection split {text_of_number(search.float_metric.value, 4)}"
    )
    on_front = [trial for trial in search.trials if trial.number in search.front]
    fastest_first = sorted(on_front, key=lambda trial: trial.figures.latency.p50_ms if trial.figures else 0.0)
    rows = [_found_row(trial, is_best=trial.number == search.best) for trial in fastest_first]
    show_table(FOUND_COLUMNS, rows, empty="nothing was found: give it more time")
    if search.reason:
        say(search.reason)
    for note in search.notes:
        say(note)
    say("")


def _running_row(line: "FrontLine") -> tuple[str, ...]:
    return (
        str(line.trial),
        line.recipe,
        f"{text_of_number(line.latency_p50_ms)} h",
        "-" if line.predicted_p95_ms is None else f"{text_of_number(line.predicted_p95_ms)} p",
        text_of_bytes(line.download_bytes),
        text_of_number(line.metric, 4),
        text_of_number(line.metric_drop, 2),
        LIMITS[line.verdict],
    )


def _found_row(trial: "SearchTrial", *, is_best: bool) -> tuple[str, ...]:
    figures = trial.figures
    if figures is None:
        return ("", str(trial.number), trial.recipe.name, "-", "-", "-", "-", "-", "-", trial.refusal)
    latency = figures.latency
    return (
        "*" if is_best else "",
        str(trial.number),
        trial.recipe.name,
        f"{text_of_number(latency.p50_ms)} h",
        text_of_figure(latency.predicted_p95_ms),
        text_of_bytes(figures.download_bytes),
        text_of_number(figures.metric.value, 4),
        text_of_number(figures.metric_drop, 2),
        LIMITS[trial.verdict],
        " > ".join(step.step for step in trial.recipe.steps),
    )
