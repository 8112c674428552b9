"""What people and programs read: tables or JSON on stdout, sentences and progress on stderr. rich is imported late."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console, RenderableType
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table

    from server.schemas.catalogue import Job
    from server.schemas.common import Figure

# A pipe has no width: tables must not be folded there.
PIPE_WIDTH: Final = 200
UNFOLDED_WIDTH: Final = 2000
_KIB: Final = 1024


def fail(message: str, *, exit_code: int = 1) -> NoReturn:
    """Say why on stderr, and end."""
    sys.stderr.write(f"edge-registry: {message}\n")
    raise typer.Exit(exit_code)


def say(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(f"{text}\n")


def show_json(document: Any) -> None:  # noqa: ANN401  whatever JSON can hold
    """Print a document for programs."""
    say(json.dumps(document, indent=2, ensure_ascii=False))


def show_documents(documents: "Iterable[BaseModel]") -> None:
    """Print a list of documents for programs."""
    show_json([document.model_dump(mode="json") for document in documents])


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "nothing yet", folded: bool = True
) -> None:
    """Print a table for people; `folded`: cells are broken where the terminal ends, else a line may be longer."""
    found = list(rows)
    if found:
        console = _console() if folded else _console(width=UNFOLDED_WIDTH)
        console.print(make_table(columns, found), soft_wrap=not folded)
    else:
        say(empty)


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """A plain table."""
    from rich import box  # noqa: PLC0415  `--help` must not wait for it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what a device says must not be read as markup
    return table


def show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print the fields of one thing for people."""
    found = list(pairs)
    width = max((len(name) for name, _ in found), default=0)
    for name, value in found:
        say(f"{name:<{width}}  {value}")


@contextmanager
def upload_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr for bytes."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with _progress(*columns) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def stage_bar(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr for work that names its stage and counts."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    with _progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as bar:
        task = bar.add_task(label, total=None)
        yield lambda stage, done, of: bar.update(task, description=f"{label}: {stage}", completed=done, total=of)


@contextmanager
def job_bar(label: str) -> "Iterator[Callable[[Job], None]]":
    """A progress bar on stderr for a job, which names its stage."""
    progress, told = job_progress(label)
    with progress:
        yield told


def job_progress(label: str) -> "tuple[Progress, Callable[[Job], None]]":
    """The bar of a job, to be drawn by whoever asked for it, and what tells it of the job."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = _progress(*columns)
    task = progress.add_task(label, total=None)

    def told(job: "Job") -> None:
        stage = job.progress.stage or ("waits for a worker" if job.state == "queued" else job.state)
        progress.update(
            task, description=f"{label}: {stage}", completed=job.progress.done, total=job.progress.of or None
        )

    return progress, told


@contextmanager
def live() -> Iterator[Callable[["Table"], None]]:
    """A table that is drawn again and again; without a terminal, only when it changes."""
    console = _console()
    if console.is_terminal:
        from rich.live import Live  # noqa: PLC0415

        with Live(console=console, auto_refresh=False) as screen:
            yield lambda table: screen.update(table, refresh=True)
    else:
        yield console.print


@contextmanager
def live_on_stderr() -> "Iterator[Callable[[RenderableType], None]]":
    """What is drawn again and again on a terminal while a job runs, and gone when it has ended; nothing elsewhere."""
    from rich.live import Live  # noqa: PLC0415

    console = _console(stderr=True)
    if not console.is_terminal:
        yield lambda _drawn: None
        return
    with Live(console=console, transient=True, refresh_per_second=4) as screen:
        yield screen.update


def text_of_bytes(size_bytes: float | None) -> str:
    """A size for people."""
    if size_bytes is None:
        return "-"
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < _KIB:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIB
    return f"{value:.1f} TiB"


def text_of_time(at: float | None) -> str:
    """A moment for people, in local time."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def text_of_number(value: float | None, digits: int = 3) -> str:
    """A number for people: so many digits, and never fewer than the integer part has."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def text_of_figure(figure: "Figure | None", digits: int = 3) -> str:
    """A figure with the first letter of its origin: device, host, predicted."""
    return "-" if figure is None else f"{text_of_number(figure.value, digits)} {figure.origin[0]}"


def text_of_step(name: str, parameters: Mapping[str, Any]) -> str:
    """A step of a recipe and what it is told."""
    told = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in parameters.items()]
    return " ".join([name, *told])


def text_of_labels(labels: dict[str, str]) -> str:
    """Labels as a selector would say them."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "-"


def _progress(*columns: "ProgressColumn") -> "Progress":
    from rich.progress import Progress  # noqa: PLC0415  `--help` must not wait for it

    console = _console(stderr=True)
    # without a terminal rich leaves empty lines where the bar was: a log wants the sentence alone
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _console(*, stderr: bool = False, width: int | None = None) -> "Console":
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=stderr, highlight=False, width=width)
    if width is not None:
        return console
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)
