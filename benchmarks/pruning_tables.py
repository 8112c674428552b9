"""Pruning of two small networks on tables, by the Hessian and by magnitude, before any training.

    python -m benchmarks.pruning_tables [--seeds 0 1 2] [--json FILE]

Phishing pages and German credit, each network trained here with each seed. 80 % of the weights go, and channels down to
half the multiply-accumulates. What the Hessian gains over magnitude is in points of accuracy, the mean of the seeds,
with a 95 % interval over the test rows (paired: both answer the same rows); the signal-to-noise ratio says how near the
answers stay to those of the whole network. Exit code 1: somewhere the Hessian is surely the worse.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.pruning import SHARE, SPARSITY
from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.inputs import program
from compressors.measuring.fidelity import snr_db
from compressors.metrics import METRICS
from compressors.step import Context, Model
from compressors.steps.prune_channels import STEP as CHANNELS
from compressors.steps.prune_channels_hessian import STEP as CHANNELS_HESSIAN
from compressors.steps.prune_weights import STEP as WEIGHTS
from compressors.steps.prune_weights_hessian import STEP as WEIGHTS_HESSIAN
from compressors.training import predict
from examples import risk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressors.step import AnyStep

TABLES = {"phishing": risk.phishing, "credit": risk.credit}
PARTS = (0.2, 0.5, 1.0)  # where calibration, selection and test rows end among those that training never sees
WAYS: dict[str, tuple[AnyStep, AnyStep, dict[str, float]]] = {
    "weights": (WEIGHTS, WEIGHTS_HESSIAN, {"sparsity": SPARSITY}),
    "channels": (CHANNELS, CHANNELS_HESSIAN, {"macs": SHARE}),
}
DRAWS, ENDS = 10_000, (2.5, 97.5)


def split_of(features: NDArray[np.float32], target: NDArray[np.int64]) -> Split:
    """Rows as steps see them."""
    places = np.arange(len(target))
    return Split({"features": features}, target, places, None, places)


class Trial:
    """The network of one table and seed."""

    def __init__(self, table: risk.Table, seed: int) -> None:
        ends = [int(part * table.evaluated) for part in PARTS]
        starts = [0, *ends[:-1]]
        calibration, selection, self._test = (
            split_of(table.features[a:b], table.target[a:b]) for a, b in zip(starts, ends, strict=True)
        )
        train = split_of(table.features[table.evaluated :], table.target[table.evaluated :])
        example = (torch.zeros(2, table.features.shape[1]),)
        free = ({0: torch.export.Dim.DYNAMIC},)
        exported = torch.export.export(risk.train(table, seed=seed), example, dynamic_shapes=free)
        network = program.from_exported(exported)
        accuracy = METRICS["accuracy"]
        self._model = Model(network)
        self._context = Context(
            calibration, selection, Task.CLASSIFICATION, accuracy, train=train, teacher=network, seed=seed
        )
        self._whole = self._answers(self._model)

    def _answers(self, model: Model) -> NDArray[np.float32]:
        return predict(model.network.module, self._test).numpy()[:, 0]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which test rows the whole network decides rightly."""
        return self._decided(self._whole)

    def _decided(self, answers: NDArray[np.float32]) -> NDArray[np.bool_]:
        decided: NDArray[np.bool_] = (answers > 0) == (self._test.target == 1)
        return decided

    def pruned(self, step: AnyStep, parameters: dict[str, float]) -> tuple[NDArray[np.bool_], float]:
        """Which test rows it decides rightly then, and the signal-to-noise ratio in dB."""
        model = step.apply(self._model, self._context, step.parameters.model_validate(parameters)).model
        answers = self._answers(model)
        return self._decided(answers), snr_db(self._whole, answers)


def interval_of(gains: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the mean over the rows."""
    rows = np.random.default_rng(0).integers(len(gains), size=(DRAWS, len(gains)))
    low, high = np.percentile(gains[rows].mean(axis=1), ENDS)
    return float(low), float(high)


def compare(trials: list[Trial], way: str) -> dict[str, Any]:
    """Both ways of pruning, over the seeds."""
    by_magnitude, by_hessian, parameters = WAYS[way]
    plain = [trial.pruned(by_magnitude, parameters) for trial in trials]
    hessian = [trial.pruned(by_hessian, parameters) for trial in trials]
    right, right_hessian = (np.mean([rows for rows, _ in one], axis=0) for one in (plain, hessian))
    low, high = interval_of(right_hessian - right)
    return {
        "float": float(np.mean([trial.right for trial in trials])),
        "magnitude": float(right.mean()),
        "hessian": float(right_hessian.mean()),
        "gain": (float((right_hessian - right).mean()), low, high),
        "snr_db": (float(np.mean([db for _, db in plain])), float(np.mean([db for _, db in hessian]))),
    }


def main() -> int:
    """Compare, print; 1 where the Hessian is surely the worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    print(f"{'accuracy':20}{'float':>8}{'magnitude':>11}{'Hessian':>9}   points gained (95 %)     SNR in dB")
    for name, read in TABLES.items():
        trials = [Trial(read(), seed) for seed in options.seeds]
        for way in WAYS:
            one = found[f"{name}, {way}"] = compare(trials, way)
            gain, low, high = (100 * points for points in one["gain"])
            print(
                f"{f'{name}, {way}':20}{one['float']:8.3f}{one['magnitude']:11.3f}{one['hessian']:9.3f}"
                f"   {gain:+.1f} ({low:+.1f} to {high:+.1f})".ljust(74)
                + f"{one['snr_db'][0]:.1f} and {one['snr_db'][1]:.1f}"
            )
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))
    worse = [name for name, one in found.items() if one["gain"][2] < 0]
    for name in worse:
        print(f"MISSED {name}: the Hessian is the worse")
    return 1 if worse else 0


if __name__ == "__main__":
    raise SystemExit(main())
