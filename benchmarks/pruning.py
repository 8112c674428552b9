"""Pruning on Fashion-MNIST: channels and single weights, by magnitude and by the Hessian, before and after fine-tuning.

    python -m benchmarks.pruning [--seeds 0 1 2] [--models FOLDER] [--mending-rows 55000] [--epochs 3] [--json FILE]

The network is a CNN of 9.1 M multiply-accumulates, trained here; `--models` keeps the trained weights for another run,
and `--mending-rows` and `--epochs` shorten fine-tuning.
Channels are pruned to half the multiply-accumulates and fine-tuned; the files of both are timed on LiteRT in turns,
because the machine's speed changes while it is measured. The pictures are those of the Debian package
dataset-fashion-mnist: 55,000 train, 2,000 calibrate, 3,000 select the best epoch, and the 10,000 of the test say how
good each network is. Exit code 1: a goal is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import zstandard

from benchmarks.compressing.turns import milliseconds
from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.errors import NoEffectError
from compressors.files.litert import read_facts
from compressors.inputs import program
from compressors.metrics import METRICS, value_of
from compressors.step import Context, Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.fine_tune import STEP as FINE_TUNE
from compressors.steps.prune_channels import STEP as CHANNELS
from compressors.steps.prune_channels_hessian import STEP as CHANNELS_HESSIAN
from compressors.steps.prune_weights import STEP as WEIGHTS
from compressors.steps.prune_weights_hessian import STEP as WEIGHTS_HESSIAN
from compressors.training import FitOptions, Setting, fit, predict
from examples.fashion import cnn, pictures
from examples.packaged import DataMissingError

if TYPE_CHECKING:
    from compressors.step import AnyStep, Outcome

TRAINED, CALIBRATING = 55_000, 2_000
TRAINING = FitOptions(epochs=5, batch_size=128, learning_rate=2e-3, weight_decay=1e-2)
TOP1 = METRICS["top1"]
SHARE, SPARSITY = 0.5, 0.8  # of the multiply-accumulates that stay; of the weights that go
MOST_LOST, LEAST_FASTER, MOST_APART = 0.01, 1.4, 0.003


def split_of(inputs: np.ndarray[Any, Any], classes: np.ndarray[Any, Any]) -> Split:
    """Rows as steps see them."""
    places = np.arange(len(classes))
    return Split({"input": inputs}, classes, places, None, places)


class Rows(NamedTuple):
    """All pictures, split."""

    train: Split
    calibration: Split
    selection: Split
    test: Split

    @classmethod
    def read(cls) -> Rows:
        """From the Debian package."""
        inputs, classes = pictures("train")
        bounds = (0, TRAINED, TRAINED + CALIBRATING, len(classes))
        train, calibration, selection = (split_of(inputs[a:b], classes[a:b]) for a, b in itertools.pairwise(bounds))
        return cls(train, calibration, selection, split_of(*pictures("t10k")))


def trained(rows: Rows, seed: int, folder: Path | None) -> program.FloatModel:
    """The network of a seed, trained or read, as a push would make it: exported, and rehydrated."""
    torch.manual_seed(seed)
    network = cnn()
    kept = None if folder is None else folder / f"cnn-{seed}.pt"
    if kept is not None and kept.exists():
        network.load_state_dict(torch.load(kept, weights_only=True))
    else:
        fit(
            network,
            rows.train,
            rows.selection,
            task=Task.CLASSIFICATION,
            metric=TOP1,
            options=TRAINING,
            setting=Setting(seed=seed, on_epoch=lambda epoch: print(f"seed {seed}: {epoch}", flush=True)),
        )
        if kept is not None:
            torch.save(network.state_dict(), kept)
    free = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(network.eval(), (torch.zeros(2, 1, 28, 28),), dynamic_shapes=free)
    return program.from_exported(exported)


def accuracy(model: Model, split: Split) -> float:
    """The share of pictures that the network names rightly."""
    return value_of(TOP1, predict(model.network.module, split).numpy(), split.target, query=None)


def litert(model: Model, context: Context) -> bytes:
    """The network as a LiteRT file."""
    return content_of(EXPORT.apply(model, context, EXPORT.parameters()).model)


def wire_bytes(content: bytes) -> int:
    """What a download takes."""
    return len(zstandard.ZstdCompressor(level=19).compress(content))


class Trial:
    """The network of one seed, pruned in every way."""

    def __init__(self, seed: int, network: program.FloatModel, rows: Rows, options: argparse.Namespace) -> None:
        self._rows, self._model, self._options = rows, Model(network), options
        few = split_of(rows.train.inputs["input"][: options.mending_rows], rows.train.target[: options.mending_rows])
        self._context = Context(
            rows.calibration, rows.selection, Task.CLASSIFICATION, TOP1, train=few, teacher=network, seed=seed
        )
        self.files: dict[str, bytes] = {}
        self.figures: list[dict[str, Any]] = []
        self._add("float", self._model)

    def _add(self, way: str, model: Model) -> None:
        content = litert(model, self._context)
        self.figures.append(
            {
                "seed": self._context.seed,
                "way": way,
                "top1": accuracy(model, self._rows.test),
                "macs": read_facts(content).macs,
                "bytes": len(content),
                "wire_bytes": wire_bytes(content),
            }
        )
        print(self.figures[-1], flush=True)
        self.files[way] = content

    def channels(self, way: str, step: AnyStep) -> None:
        """Prune channels, and mend."""
        pruned = self._applied(step, self._model, macs=SHARE, **self._without_report(step)).model
        self._add(f"{way} channels", pruned)
        try:
            mended = self._applied(FINE_TUNE, pruned, epochs=self._options.epochs, teacher=False).model
        except NoEffectError as exc:
            print(f"kept as it was: {exc}", flush=True)
            mended = pruned
        self._add(f"{way} channels, fine-tuned", mended)

    def weights(self, way: str, step: AnyStep) -> None:
        """Prune weights."""
        pruned = self._applied(step, self._model, sparsity=SPARSITY, **self._without_report(step)).model
        self._add(f"{way} weights", pruned)

    def _applied(self, step: AnyStep, model: Model, **parameters: object) -> Outcome:
        began_s = time.monotonic()
        outcome = step.apply(model, self._context, step.parameters.model_validate(parameters))
        print(f"{step.name}: {outcome.summary} in {time.monotonic() - began_s:.0f} s", flush=True)
        if self._context.seed == 0 and "curvature" in step.parameters.model_fields:
            print(json.dumps(outcome.layers, indent=1), flush=True)
        return outcome

    def _without_report(self, step: AnyStep) -> dict[str, bool]:
        """The eigenvalues are reported for the first seed alone."""
        reports = "curvature" in step.parameters.model_fields
        return {"curvature": self._context.seed == 0} if reports else {}


def goals_of(mean: dict[str, dict[str, float]], ratio: dict[str, float]) -> dict[str, dict[str, float | bool]]:
    """What was asked for, and what came out, on the mean of the seeds."""
    top1 = {way: figures["top1"] for way, figures in mean.items()}
    mended = {way: top1[f"{way} channels, fine-tuned"] for way in ("magnitude", "hessian")}
    goals = {
        "points lost at half the MACs, fine-tuned": (100 * (top1["float"] - max(mended.values())), 100 * MOST_LOST),
        "hessian below magnitude before fine-tuning": (
            100 * (top1["magnitude channels"] - top1["hessian channels"]),
            0.0,
        ),
        "hessian below magnitude after it": (100 * (mended["magnitude"] - mended["hessian"]), 100 * MOST_APART),
        "latency over float's": (max(ratio[way] for way in ratio if "fine-tuned" in way), 1 / LEAST_FASTER),
    }
    return {name: {"got": got, "at_most": limit, "met": got <= limit} for name, (got, limit) in goals.items()}


def show(mean: dict[str, dict[str, float]], ratio: dict[str, float], goals: dict[str, dict[str, float | bool]]) -> None:
    """Print the table."""
    columns = ("top1", "MMACs", "KB", "KB on the wire", "latency ratio")
    print(f"{'mean of the seeds':32}" + "".join(f"{column:>16}" for column in columns))
    for way, one in mean.items():
        cells = (
            f"{one['top1']:.4f}",
            f"{one['macs'] / 1e6:.2f}",
            f"{one['bytes'] / 1e3:.0f}",
            f"{one['wire_bytes'] / 1e3:.0f}",
            f"{ratio[way]:.2f}",
        )
        print(f"{way:32}" + "".join(f"{cell:>16}" for cell in cells))
    for name, goal in goals.items():
        print(f"{'met   ' if goal['met'] else 'MISSED'} {name}: {goal['got']:.3f} (at most {goal['at_most']:.3f})")


def run(options: argparse.Namespace, rows: Rows) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Train, prune, mend and measure with each seed: the figures of each way, and each seed's ratios of latency."""
    figures: list[dict[str, Any]] = []
    ratios: list[dict[str, float]] = []
    for seed in options.seeds:
        trial = Trial(seed, trained(rows, seed, options.models), rows, options)
        for way, channels, weights in (
            ("magnitude", CHANNELS, WEIGHTS),
            ("hessian", CHANNELS_HESSIAN, WEIGHTS_HESSIAN),
        ):
            trial.channels(way, channels)
            trial.weights(way, weights)
        latency_ms = milliseconds(trial.files, options.rounds)
        print({way: round(value, 4) for way, value in latency_ms.items()}, flush=True)
        ratios.append({way: value / latency_ms["float"] for way, value in latency_ms.items()})
        figures += trial.figures
    return figures, ratios


def main() -> int:
    """Run, print; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", type=Path, metavar="FOLDER")
    parser.add_argument("--mending-rows", type=int, default=TRAINED)
    parser.add_argument("--epochs", type=int, default=3, help="of fine-tuning")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each file while latency is measured")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        rows = Rows.read()
    except DataMissingError as exc:
        raise SystemExit(str(exc)) from exc
    if options.models is not None:
        options.models.mkdir(parents=True, exist_ok=True)
    figures, ratios = run(options, rows)
    mean = {
        way: {
            key: float(np.mean([one[key] for one in figures if one["way"] == way]))
            for key in ("top1", "macs", "bytes", "wire_bytes")
        }
        for way in ratios[0]
    }
    ratio = {way: float(np.median([one[way] for one in ratios])) for way in ratios[0]}
    goals = goals_of(mean, ratio)
    show(mean, ratio, goals)
    if options.json is not None:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        versions = {name: version(name) for name in ("ai-edge-litert", "torch", "torch-pruning", "numpy")}
        document = {
            "machine": machine,
            "versions": versions,
            "figures": figures,
            "latency_ratio": ratios,
            "goals": goals,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(goal["met"] for goal in goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
