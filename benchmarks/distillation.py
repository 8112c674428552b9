"""A compact student on Fashion-MNIST: what its teacher is worth, with few labels and with many.

    python -m benchmarks.distillation [--rows 20000] [--labels 2000] [--epochs 16] [--seed 0] [--json FILE]

The teacher is the CNN of examples/fashion.py (9.1 M multiply-accumulates), the student MobileNetV3-small of a quarter
of its width. Each student sees as many batches as the others, whatever it learns from. The pictures are those of the
Debian package dataset-fashion-mnist; the first 3,000 of the test files choose the epoch, the other 7,000 say how good
it is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.inputs import program
from compressors.metrics import METRICS, value_of
from compressors.step import Context, Model
from compressors.steps.student import STEP as STUDENT
from compressors.training import predict
from examples.fashion import pictures, train
from examples.packaged import DataMissingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SELECTED = 3_000
TOP1 = METRICS["top1"]
LEAST_GAIN = 0.03  # with few labels and the other pictures unlabelled
SIZE: dict[str, Any] = {"architecture": "mobilenet-v3-small", "width": 0.25}


class Lesson(NamedTuple):
    """What one student learns from."""

    name: str
    rows: Split
    teacher: bool
    hints: float = 0.0


def split_of(inputs: NDArray[np.float32], classes: NDArray[np.int64]) -> Split:
    """Rows as steps see them."""
    places = np.arange(len(classes))
    return Split({"input": inputs}, classes, places, None, places)


def lessons(rows: int, labels: int, seed: int) -> list[Lesson]:
    """The same pictures for all, with few labels or with many."""
    inputs, classes = pictures("train")
    chosen = np.random.default_rng(seed).permutation(len(classes))[:rows]
    inputs, classes = inputs[chosen], classes[chosen]
    few = classes.copy()
    few[labels:] = -1
    known, some, every = split_of(inputs[:labels], classes[:labels]), split_of(inputs, few), split_of(inputs, classes)
    return [
        Lesson(f"{labels} labels alone", known, teacher=False),
        Lesson(f"{labels} labels and the teacher", known, teacher=True),
        Lesson(f"{labels} labels, {rows - labels} unlabelled, the teacher", some, teacher=True),
        Lesson(f"{labels} labels, {rows - labels} unlabelled, the teacher and hints", some, teacher=True, hints=1.0),
        Lesson(f"{rows} labels alone", every, teacher=False),
        Lesson(f"{rows} labels and the teacher", every, teacher=True),
    ]


def teacher() -> program.FloatModel:
    """The CNN, trained, as a push would make it."""
    free = ({0: torch.export.Dim.DYNAMIC},)
    return program.from_exported(torch.export.export(train(), (torch.zeros(2, 1, 28, 28),), dynamic_shapes=free))


def accuracy(model: Model, split: Split) -> float:
    """The share of pictures that a network names rightly."""
    return value_of(TOP1, predict(model.network.module, split).numpy(), split.target, query=None)


def main() -> int:
    """Train the teacher and every student, and print what each is worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=2_000)
    parser.add_argument("--epochs", type=int, default=16, help="over all rows; those with fewer rows get more of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        inputs, classes = pictures("t10k")
        taught = lessons(options.rows, options.labels, options.seed)
    except DataMissingError as exc:
        raise SystemExit(str(exc)) from exc
    selection, test = split_of(inputs[:SELECTED], classes[:SELECTED]), split_of(inputs[SELECTED:], classes[SELECTED:])
    model = Model(teacher())
    figures = {"teacher": accuracy(model, test)}
    print(f"{'teacher':66} {figures['teacher']:.4f}", flush=True)
    for lesson in taught:
        began_s = time.monotonic()
        context = Context(
            selection,
            selection,
            Task.CLASSIFICATION,
            TOP1,
            train=lesson.rows,
            teacher=model.network,
            threads=torch.get_num_threads(),
            seed=options.seed,
        )
        epochs = max(1, round(options.epochs * options.rows / lesson.rows.rows))
        asked = {**SIZE, "teacher": lesson.teacher, "hints": lesson.hints, "epochs": epochs, "patience": epochs}
        outcome = STUDENT.apply(model, context, STUDENT.parameters.model_validate(asked))
        figures[lesson.name] = accuracy(outcome.model, test)
        print(f"{lesson.name:66} {figures[lesson.name]:.4f}  {time.monotonic() - began_s:6.0f} s", flush=True)
    alone, helped = figures[taught[0].name], figures[taught[2].name]
    met = helped - alone >= LEAST_GAIN
    print(
        f"few labels: the teacher is worth {100 * (helped - alone):.1f} points (goal 3.0): {'met' if met else 'MISSED'}"
    )
    gain = figures[taught[-1].name] - figures[taught[-2].name]
    print(f"many labels: the teacher is worth {100 * gain:.1f} points")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
