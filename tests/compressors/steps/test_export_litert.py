from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ConversionError
from compressors.inputs import program
from compressors.step import Model
from compressors.steps.export_litert import STEP
from tests.compressors.networks import export
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from pathlib import Path


class Middle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centre = Centre()

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401
        return self.centre(features)[:, :1]


class Centre(nn.Module):
    """The median has no counterpart in LiteRT."""

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401
        return features - features.median(dim=1, keepdim=True)[0]


def test_operator_without_counterpart_is_named_with_its_layer(uploads: Path, tmp_path: Path) -> None:
    export(Middle().eval(), tmp_path / "middle.pt2", "features", (8,))
    network = program.load(tmp_path / "middle.pt2")
    evaluation = evaluation_rows.load(uploads / "price.npz", network.signature, Task.REGRESSION)
    with pytest.raises(
        ConversionError, match=r"because of the operator aten\.median\.dim in its layer centre \(Lowering"
    ):
        apply(STEP, Model(network), context_of(evaluation, Task.REGRESSION))
