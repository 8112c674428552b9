"""Pruning by the Hessian beside magnitude on tables, before training: phishing, credit and house prices.

    python -m benchmarks.pruning_tables [--applications phishing credit price] [--seeds 0 1 2] [--json FILE]

A network of each application is trained with each seed, pruned in both ways, and scored on the test rows that the
example keeps; no step sees those. The difference is that of the mean over the seeds, with a 95 % interval over the test
rows: both ways answered the same ones (a paired bootstrap). Noise is what pruning changed in the answers, as a
signal-to-noise ratio: it tells apart what a few hundred decisions can't. It ends with 1 where the Hessian is certainly
below magnitude, that is with its whole interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compressors.bootstrap import Estimate, evaluate, paired_loss
from compressors.data import evaluation_rows, training_rows
from compressors.inputs import program
from compressors.measuring.fidelity import snr_db
from compressors.metrics import metric_for
from compressors.step import Context, Model
from compressors.steps.prune_channels import STEP as CHANNELS
from compressors.steps.prune_channels_hessian import STEP as CHANNELS_HESSIAN
from compressors.steps.prune_weights import STEP as WEIGHTS
from compressors.steps.prune_weights_hessian import STEP as WEIGHTS_HESSIAN
from compressors.training import predict
from examples import price, risk
from examples.applications import APPLICATIONS
from examples.packaged import DataMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compressors.contract import Figure
    from compressors.data.evaluation_rows import EvaluationData, Split
    from compressors.metrics import Metric
    from compressors.step import AnyStep

SEEDS = (0, 1, 2)
PAIRS: dict[str, tuple[AnyStep, AnyStep, dict[str, Any]]] = {
    "80 % of the weights": (WEIGHTS, WEIGHTS_HESSIAN, {"sparsity": 0.8}),
    "half of the channels' MACs": (CHANNELS, CHANNELS_HESSIAN, {"macs": 0.5}),
}


@dataclass(frozen=True)
class Subject:
    """An application's data, and how its network is trained with a seed."""

    write: Callable[[Path], None]  # NAME.npz and NAME-train.npz
    data: str
    train: Callable[[int], torch.nn.Module]


SUBJECTS = {
    "phishing": Subject(
        lambda folder: risk.write(folder, "phishing", risk.phishing()),
        "phishing",
        lambda seed: risk.train(risk.phishing(), seed=seed),
    ),
    "credit": Subject(
        lambda folder: risk.write(folder, "credit", risk.credit()),
        "credit",
        lambda seed: risk.train(risk.credit(), seed=seed),
    ),
    "price": Subject(price.write_data, "houses", lambda seed: price.train(epochs=15, width=64, seed=seed)),
}


@dataclass(frozen=True)
class Row:
    """Both ways at one share, on the mean of the seeds."""

    application: str
    what: str
    metric: str
    float_value: float
    magnitude: float
    hessian: float
    gain: Figure  # of the Hessian over magnitude, in units of the metric
    magnitude_snr_db: float
    hessian_snr_db: float

    @property
    def is_certainly_below(self) -> bool:
        """Whether the whole interval is."""
        return self.gain.high is not None and self.gain.high < 0.0


def float_model(network: torch.nn.Module, columns: int) -> program.FloatModel:
    """The network as a push would make it: exported, and rehydrated."""
    free = {"features": {0: torch.export.Dim.DYNAMIC}}
    return program.from_exported(torch.export.export(network, (torch.zeros(2, columns),), dynamic_shapes=free))


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over the seeds: of the value, and on each draw of the same rows."""
    drawn = np.mean([one.drawn for one in estimates], axis=0)
    value = float(np.mean([one.value for one in estimates]))
    return Estimate(value, drawn, estimates[0].outputs, estimates[0].sources)


class Trial:
    """The network of one seed."""

    def __init__(self, name: str, data: EvaluationData, train: Split, network: program.FloatModel, seed: int) -> None:
        application = APPLICATIONS[name]
        self._test, self._network = data.test, network
        self.plain = predict(network.module, data.test).numpy()
        self._metric: Metric = metric_for(application.metric, application.task).for_model(self.plain)
        self._context = Context(
            data.calibration,
            data.selection,
            application.task,
            self._metric,
            train=train,
            teacher=network,
            seed=seed,
        )

    def score(self, answers: np.ndarray[Any, Any]) -> Estimate:
        """The metric on the test rows, and on draws of them that are the same for all."""
        return evaluate(self._metric, answers, self._test.target, group=self._test.group, query=self._test.query)

    def answers(self, step: AnyStep, **parameters: object) -> np.ndarray[Any, Any]:
        """Of the pruned network on the test rows."""
        outcome = step.apply(Model(self._network), self._context, step.parameters.model_validate(parameters))
        answered: np.ndarray[Any, Any] = predict(outcome.model.network.module, self._test).numpy()
        return answered


def rows_of(name: str, seeds: Sequence[int], folder: Path) -> list[Row]:
    """Train, prune and score one application."""
    application, subject = APPLICATIONS[name], SUBJECTS[name]
    subject.write(folder)
    with np.load(folder / f"{subject.data}.npz") as held:
        columns = held["features"].shape[1]
    trials = []
    for seed in seeds:
        network = float_model(subject.train(seed), columns)
        data = evaluation_rows.load(folder / f"{subject.data}.npz", network.signature, application.task)
        train = training_rows.load(folder / f"{subject.data}-train.npz", network.signature, application.task, data)
        trials.append(Trial(name, data, train.split, network, seed))
    metric = metric_for(application.metric, application.task)
    whole = pooled([trial.score(trial.plain) for trial in trials])
    found = []
    for what, (magnitude, hessian, parameters) in PAIRS.items():
        answered = [[trial.answers(step, **parameters) for trial in trials] for step in (magnitude, hessian)]
        plain, better = (
            pooled([trial.score(one) for trial, one in zip(trials, answers, strict=True)]) for answers in answered
        )
        noise = [
            float(np.mean([snr_db(trial.plain, one) for trial, one in zip(trials, answers, strict=True)]))
            for answers in answered
        ]
        found.append(
            Row(
                name,
                what,
                application.metric,
                whole.value,
                plain.value,
                better.value,
                paired_loss(metric, better, plain),
                *noise,
            )
        )
    return found


def told(row: Row) -> str:
    """A line of the table."""
    return (
        f"{row.application:10}{row.what:28}{row.metric:>9} {row.float_value:8.3f}{row.magnitude:11.3f}"
        f"{row.hessian:9.3f}  {row.gain.value:+.3f} ({row.gain.low:+.3f} to {row.gain.high:+.3f})"
        f"{row.magnitude_snr_db:8.1f} dB{row.hessian_snr_db:8.1f} dB"
    )


def main() -> int:
    """Run, print; 1 where the Hessian is certainly below magnitude."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--applications", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(
        f"{'':38}{'metric':>9} {'float':>8}{'magnitude':>11}{'hessian':>9}  {'gain (95 %)':26}{'noise of both':>18}",
        flush=True,
    )
    rows: list[Row] = []
    for name in options.applications:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = rows_of(name, options.seeds, Path(folder))
            except DataMissingError as exc:
                raise SystemExit(str(exc)) from exc
        rows += found
        print("\n".join(map(told, found)), flush=True)
    if options.json is not None:
        listed = [{**vars(row), "gain": row.gain.model_dump(mode="json")} for row in rows]
        options.json.write_text(json.dumps({"seeds": options.seeds, "rows": listed}, indent=1) + "\n", "utf-8")
    below = [f"{row.application}, {row.what}" for row in rows if row.is_certainly_below]
    print(f"MISSED: the Hessian is below magnitude on {'; '.join(below)}" if below else "met: it is nowhere below")
    return 1 if below else 0


if __name__ == "__main__":
    raise SystemExit(main())
