"""Shoal's automatic search beside litert-quantizer, NNCF through ExecuTorch and ONNX Runtime: same model, same rows.

    python -m benchmarks.compression [--models vision fashion price phishing] [--budget 10m] [--json FILE]

Every peer gets the float file of its own format and the calibration rows, makes a file with each of its documented
recipes, and runs it on its own runtime; Shoal searches with the budget on all of these runtimes. The metric is that of
the test rows with its 95 % interval. Latency is the median of one thread in each of five turns, in which the files
follow one another: what disturbs the machine disturbs all alike. Bytes on the wire are those of the file as Shoal
sends files.

One file dominates another if it is faster beyond the spread of the turns, righter beyond the metric's interval or
smaller on the wire by more than 1 %, and the other is none of these. Exit code 1: of some model something on Shoal's
front is dominated by a peer, or nothing of it is better than what is on the peers'. The profile allows clothes a loss
of 2 points and asks photos for 0.6 of top-1 (float: 0.875 of the few rows that a search may see); on tables it sets no
limit, and Shoal offers nothing that may lose more than half a point. NNCF gets a virtual environment of its own:
`--without-nncf` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.compressing.comparison import FLOAT, NNCF, NNCF_WANTS, PEERS, PYTHONS, SHOAL, Comparison
from benchmarks.compressing.judgement import front, judge
from benchmarks.peers.environment import REPOSITORY, environment
from edge_agent.probe.read import probe
from examples.applications import APPLICATIONS, make
from server.cli.tokens import seconds_of

if TYPE_CHECKING:
    from benchmarks.compressing.comparison import Contender
    from benchmarks.compressing.judgement import Judgement

MODELS = ("vision", "fashion", "price", "phishing")
# Of top-1; the others set none. Six photos to choose by tell nothing of a loss of points, but surely what is broken.
LIMITS = {"vision": {"metric_floor": 0.6}, "fashion": {"metric_max_drop": 0.02}}
COLUMNS = ("metric", "95 %", "p50 ms", "five turns", "file kB", "wire kB")


def compare(name: str, options: argparse.Namespace, folder: Path, python: Path | None) -> Comparison:
    """Everybody compresses one model, and everything is measured."""
    found = probe(data_dir=folder, runtimes=tuple(PYTHONS), name="this-machine")
    limits = found.limits.model_copy(update=LIMITS.get(name, {}))
    profile = found.model_copy(update={"threads": 1, "limits": limits})
    cache = folder / "cache" if options.cache is None else options.cache / name
    cache.mkdir(parents=True, exist_ok=True)
    inputs = make(name, APPLICATIONS[name], options.folder)
    comparison = Comparison(inputs, profile, folder, cache)

    def say(text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr, flush=True)

    comparison.add_float()
    for peer in PEERS:
        used = python if peer is NNCF else Path(sys.executable)
        if used is not None:
            say(f"compressing with {peer.name}")
            comparison.peer(peer, used)
    comparison.search(seconds_of(options.budget), say)
    comparison.measure(say)
    return comparison


def judged(contenders: list[Contender]) -> tuple[Judgement, set[str]]:
    """How Shoal stands, and who is on the front of its side."""
    ran = [one for one in contenders if not one.refusal]
    ours = [one.entrant() for one in ran if one.side == SHOAL]
    theirs = [one.entrant() for one in ran if one.side not in {SHOAL, FLOAT}]
    return judge(ours, theirs), {one.name for side in (ours, theirs) for one in front(side)}


def show(name: str, metric: str, contenders: list[Contender], judgement: Judgement, fronts: set[str]) -> None:
    """Print the table and what follows from it."""
    width = max(len(one.name) for one in contenders) + 3
    print(f"\n{f'{name}, {metric}':{width}}" + "".join(f"{column:>17}" for column in COLUMNS))
    for one in sorted(contenders, key=lambda one: (bool(one.refusal), one.median_ms)):
        if one.refusal:
            print(f"{one.name:{width}}  refused: {one.refusal}")
            continue
        entrant = one.entrant()
        cells = (
            f"{one.metric:.4f}",
            f"{entrant.low:.4f} {entrant.high:.4f}",
            f"{one.median_ms:.4f}",
            f"{min(one.p50_ms):.4f} {max(one.p50_ms):.4f}",
            f"{one.raw_bytes / 1e3:.1f}",
            f"{one.wire_bytes / 1e3:.1f}",
        )
        mark = "*" if one.name in fronts else " "
        print(f"{mark} {one.name:{width - 2}}" + "".join(f"{cell:>17}" for cell in cells))
    print("* on the front of its side")
    for one in contenders:
        if one.name in fronts and one.steps:
            print(f"{one.name}: {one.steps}")
    for better, worse in judgement.better:
        print(f"better: {better} than {worse}")
    for better, worse in judgement.dominated:
        print(f"dominated: {worse} by {better}")
    print(f"{'MISSED' if judgement.dominated else 'met   '} Shoal's front is dominated nowhere")
    print(f"{'met   ' if judgement.better else 'MISSED'} Shoal is strictly better somewhere")


def document_of(comparison: Comparison, judgement: Judgement, fronts: set[str]) -> dict[str, Any]:
    """One model's part of the JSON."""
    assert comparison.found is not None, "it was searched"
    rows = [
        {**asdict(one), "path": None, "median_ms": one.median_ms, "on_front": one.name in fronts}
        for one in comparison.contenders
    ]
    return {
        "metric": comparison.found.metric,
        "trials": len(comparison.found.trials),
        "refused_trials": sum(trial.figures is None for trial in comparison.found.trials),
        "contenders": rows,
        "dominated": judgement.dominated,
        "better": judgement.better,
    }


def main() -> int:
    """Compare, print; 1 where Shoal's front is dominated, or better nowhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--budget", default="10m", help="of the search for each model: 90s, 10m")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".demo" / "applications", help="models and data")
    parser.add_argument(
        "--cache", type=Path, help="keeps the searches: another run with the budget measures their fronts"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--without-nncf", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    python = None if options.without_nncf else environment("nncf", NNCF_WANTS)
    documents: dict[str, Any] = {}
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            comparison = compare(name, options, Path(folder), python)
        judgement, fronts = judged(comparison.contenders)
        documents[name] = document_of(comparison, judgement, fronts)
        show(name, documents[name]["metric"], comparison.contenders, judgement, fronts)
    if options.json is not None:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        packages = ("ai-edge-litert", "executorch", "litert-quantizer", "onnxruntime", "torch")
        versions = {**{package: version(package) for package in packages}, "peers' own": NNCF_WANTS}
        document = {"machine": machine, "versions": versions, "budget": options.budget, "models": documents}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(one["better"] and not one["dominated"] for one in documents.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
