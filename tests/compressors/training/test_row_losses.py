from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors.errors import DataError
from compressors.training import row_losses
from compressors.training.row_losses import loss_batches
from tests.compressors.pruning_networks import Residual, context_for, network_of

if TYPE_CHECKING:
    from compressors.training.row_losses import LossBatch


@pytest.fixture(scope="module")
def module() -> torch.nn.Module:
    return network_of(Residual()).module


def batches_for(module: torch.nn.Module, *, rows: int = 32, size: int = 32, labelled: int = 96) -> list[LossBatch]:
    context = context_for(network_of(Residual()))
    target = np.where(np.arange(96) < labelled, context.calibration.target, -1)
    split = replace(context.calibration, target=target)
    return list(loss_batches(module, split, context.task, context.metric, max_rows=rows, batch_size=size))


def slope(module: torch.nn.Module, batches: list[LossBatch]) -> torch.Tensor:
    weight = module.get_parameter("stem.weight").requires_grad_()
    loss = torch.stack([batch.loss(module(*batch.inputs)) for batch in batches]).sum()
    return torch.autograd.grad(loss, weight)[0]


def test_rows_come_in_batches_whose_values_fit_into_memory(
    module: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches_for(module)
    assert [batch.rows for batch in whole] == [32]
    row_bytes = 4 * 8 * 8 * (16 + 32 + 32 + 16)  # of what the convolutions give
    monkeypatch.setattr(row_losses, "KEPT_BYTES", 20 * row_bytes)
    pieces = batches_for(module)
    assert sum(batch.rows for batch in pieces) == 32
    assert 5 <= pieces[0].rows <= 20
    torch.testing.assert_close(slope(module, pieces), slope(module, whole))
    monkeypatch.setattr(row_losses, "KEPT_BYTES", 1)
    assert [batch.rows for batch in batches_for(module, rows=3, labelled=8)] == [1, 1, 1]


def test_rows_without_a_label_are_left_out(module: torch.nn.Module) -> None:
    assert sum(batch.rows for batch in batches_for(module, rows=96, labelled=40)) == 40
    with pytest.raises(DataError, match="have 5 labelled rows"):
        batches_for(module, labelled=5)
