"""Compress an application with one technique after the other, for two kinds of device; print what was gained and lost.

    python -m examples.compress price|films|ratings|phishing|credit|vision|fashion [--folder FOLDER]

The network and its data are made first if the folder does not hold them. Every file is run on LiteRT of this machine
with one thread, with and without XNNPACK; the faster of the two is shown. `before` and `after` are on the test rows,
which no step has seen. The same figures are written to FOLDER/NAME.json and NAME.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from compressors.building.run import run_build
from compressors.contract import BuildRequest, ProgressLine
from compressors.metrics import metric_for
from compressors.reporting.labels import labelled, loss_share
from compressors.steps.repaired import LEFT_OUT
from edge_agent.probe.read import probe
from edge_agent.profiles import well_known
from edge_agent.protocol.profile import RuntimeName
from examples.applications import APPLICATIONS, REPOSITORY, make, recipes_for

if TYPE_CHECKING:
    from compressors.contract import BuildResult, BuiltVariant, Recipe
    from compressors.metrics import Metric
    from examples.applications import Application

BOARD = "pi-zero-2w"
NO_FIGURES = "- | " * 7


@dataclass(frozen=True)
class Gain:
    """One row of the table: what a recipe made, beside float32 on the same runtime."""

    recipe: str
    refusal: str = ""
    verdicts: dict[str, str] | None = None
    before: float = 0.0
    after: float = 0.0
    low: float | None = None
    high: float | None = None
    points_lost: float = 0.0  # of the metric; of an unbounded one percent of the float model's value
    agreement: float | None = None
    raw_bytes: int = 0
    wire_bytes: int = 0
    raw_share: float = 0.0
    wire_share: float = 0.0
    macs: int | None = None
    p50_ms: float = 0.0
    p50_share: float = 0.0
    label: str = ""
    sentence: str = ""
    steps: dict[str, str] | None = None  # what each did, as read from what it gave
    left_out: tuple[str, ...] = ()  # steps that made nothing better, so that the file is as without them

    @property
    def is_what(self) -> str:
        """The label, and what is not to be thanked for it."""
        return self.label + "".join(f"; {step} made nothing better, left out" for step in self.left_out)


def fastest(result: BuildResult, recipe: str, profile: str) -> BuiltVariant | None:
    """The variant of a recipe with the lower median latency; None: it did not run."""
    runs = [v for v in result.variants if v.recipe == recipe and v.profile == profile and v.latency_p50_ms and v.metric]
    return min(runs, key=lambda v: v.latency_p50_ms.value if v.latency_p50_ms else 0.0, default=None)


def gains(result: BuildResult, recipes: tuple[Recipe, ...], profile: str, metric: Metric) -> list[Gain]:
    """A row for each recipe."""
    plain = fastest(result, "float32", profile)
    if plain is None:
        raise SystemExit("float32 runs nowhere on this machine: nothing to compare with")
    return [gain(result, recipe.name, profile, plain, metric) for recipe in recipes]


def gain(result: BuildResult, recipe: str, profile: str, plain: BuiltVariant, metric: Metric) -> Gain:
    """One row."""
    found = fastest(result, recipe, profile)
    if found is None:
        reasons = [v.reason for v in result.variants if v.recipe == recipe]
        return Gain(recipe, refusal=reasons[0] if reasons else "no file")
    if found is not plain and found.object_sha256 and found.object_sha256 == plain.object_sha256:
        return Gain(recipe, refusal="its file is that of float32: no step changed anything")
    before, after, drop = result.float_metric, found.metric, found.metric_drop
    latency, plain_latency = found.latency_p50_ms, plain.latency_p50_ms
    sizes = (found.raw_bytes, plain.raw_bytes, found.wire_bytes, plain.wire_bytes)
    assert after and drop and latency and plain_latency and all(sizes), "a variant that ran has its figures"  # noqa: PT018
    raw, plain_raw, wire, plain_wire = (size or 0 for size in sizes)
    share = latency.value / plain_latency.value
    lost = loss_share(metric, before.value, drop.value)
    told = labelled(
        latency=share,
        cpu_model=plain.host_cpu_model,
        raw_bytes=raw / plain_raw,
        wire_bytes=wire / plain_wire,
        loss=lost,
        is_float=found is plain,
    )
    return Gain(
        recipe,
        verdicts={v.profile: v.verdict for v in result.variants if v.recipe == recipe and v.delegate == found.delegate},
        before=before.value,
        after=after.value,
        low=after.low,
        high=after.high,
        points_lost=100 * lost,
        agreement=found.agreement.value if found.agreement else None,
        raw_bytes=raw,
        wire_bytes=wire,
        raw_share=raw / plain_raw,
        wire_share=wire / plain_wire,
        macs=found.macs,
        p50_ms=latency.value,
        p50_share=share,
        label=told.label,
        sentence=told.sentence,
        steps={step.step: step.summary for step in found.steps},
        left_out=tuple(step.step for step in found.steps if step.summary.startswith(LEFT_OUT)),
    )


def show(console: Console, name: str, application: Application, rows: list[Gain]) -> None:
    """The table."""
    table = Table(
        title=f"{name}: {application.metric} on test rows, LiteRT on this machine, one thread", pad_edge=False
    )
    table.add_column("recipe")
    for column in (application.metric, "95 %", "points lost", "agrees", "file", "wire", "M MACs", "p50 ms", "x float"):
        table.add_column(column, justify="right")
    table.add_column("it is")
    for row in rows:
        if row.refusal:
            table.add_row(row.recipe, *["-"] * 9, f"[yellow]{row.refusal}[/yellow]")
            continue
        table.add_row(
            row.recipe,
            f"{row.after:.3f}",
            "-" if row.low is None else f"{row.low:.3f} {row.high:.3f}",
            f"{row.points_lost:.1f}",
            "-" if row.agreement is None else f"{row.agreement:.3f}",
            f"{row.raw_bytes / 1e3:,.1f} kB",
            f"{row.wire_bytes / 1e3:,.1f} kB",
            "-" if row.macs is None else f"{row.macs / 1e6:,.3g}",
            f"{row.p50_ms:.4g}",
            f"{row.p50_share:.2f}",
            row.is_what,
        )
    console.print(table)
    console.print(f"float: {application.metric} {rows[0].before:.4f} before it was a file")


def markdown(name: str, metric: str, rows: list[Gain]) -> str:
    """The table for a document."""
    lines = [
        f"| {name} | {metric} before | after | points lost | file | wire | p50 ms | x float | it is |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        figures = (
            f"{row.before:.3f} | {row.after:.3f} | {row.points_lost:.1f} | {row.raw_bytes / 1e3:,.1f} kB | "
            f"{row.wire_bytes / 1e3:,.1f} kB | {row.p50_ms:.4g} | {row.p50_share:.2f} | {row.is_what}"
        )
        lines.append(f"| {row.recipe} | {figures if not row.refusal else f'{NO_FIGURES}{row.refusal}'} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compress one application."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("application", choices=sorted(APPLICATIONS))
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".demo" / "applications")
    parser.add_argument("--only", nargs="*", help="names of recipes; float32 is always among them")
    arguments = parser.parse_args()
    name: str = arguments.application
    application, folder = APPLICATIONS[name], arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    inputs = make(name, application, folder)
    recipes = recipes_for(application)
    if arguments.only:
        recipes = tuple(recipe for recipe in recipes if recipe.name in {"float32", *arguments.only})
    here = probe(data_dir=folder, runtimes=(RuntimeName.LITERT,), name="this-machine")
    board = well_known()[BOARD].model_copy(update={"runtimes": (RuntimeName.LITERT,), "threads": 1})
    console = Console(width=None if sys.stdout.isatty() else 150)
    with tempfile.TemporaryDirectory() as output, console.status("building") as status:

        def on_progress(line: ProgressLine) -> None:
            status.update(f"{line.done} of {line.of}: {line.stage}")

        request = BuildRequest(
            inputs=inputs,
            profiles=(here.model_copy(update={"threads": 1}), board),
            recipes=recipes,
            pythons={RuntimeName.LITERT: Path(sys.executable)},
            output_dir=Path(output),
            cache_dir=folder / "cache",
            host_cpu_model=here.cpu.model,
        )
        request.cache_dir.mkdir(exist_ok=True) if request.cache_dir else None
        result = run_build(request, on_progress)
    rows = gains(result, recipes, here.name, metric_for(application.metric, application.task))
    show(console, name, application, rows)
    for choice in result.choices:
        refusal = choice.refusal.sentence if choice.refusal else ""
        console.print(f"{choice.profile} gets {choice.variant_id or 'nothing'}: {choice.reason or refusal}")
    (folder / f"{name}.json").write_bytes(TypeAdapter(list[Gain]).dump_json(rows, indent=1))
    (folder / f"{name}.md").write_text(markdown(name, application.metric, rows), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
