"""Activations are looked at where the file runs; where it does not, one sentence says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from compressors.calibration.observe import observe
from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.errors import ModelRunError
from compressors.inputs import program
from compressors.measuring.scoring import score
from compressors.metrics import METRICS
from compressors.step import Context, Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from tests.compressors.networks import export
from tests.compressors.steps.applying import apply

if TYPE_CHECKING:
    from pathlib import Path


class Sorted(torch.nn.Module):
    """The converter writes an operator for it that the interpreter has not."""

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        return torch.sort(x, stable=True)[0]


def test_file_that_the_interpreter_does_not_run_is_one_sentence(tmp_path: Path) -> None:
    export(Sorted(), tmp_path / "sorted.pt2", "x", (8,))
    model, places = Model(program.load(tmp_path / "sorted.pt2")), np.arange(9)
    rows = Split({"x": np.ones((9, 8), np.float32)}, np.ones((9, 8)), places, None, places)
    exported = apply(EXPORT, model, Context(rows, rows, Task.REGRESSION, METRICS["rmse"])).model
    with pytest.raises(ModelRunError, match=r"the litert file does not run here: .*STABLEHLO_SORT"):
        observe(content_of(exported), rows, counting=True)
    with pytest.raises(ModelRunError, match="the litert file does not run here: "):
        score(exported, rows, METRICS["rmse"])
