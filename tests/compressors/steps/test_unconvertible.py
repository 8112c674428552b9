"""What a converter raised, as one sentence: with the operator, without the places in libraries that lead there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressors.steps.unconvertible import unconvertible

MLIR = (
    "Failed to run converter passes: /opt/python/site-packages/torch/nn/modules/linear.py:134:0: error: failed to "
    "legalize operation 'tfl.batch_matmul' that was explicitly marked illegal"
)


@pytest.mark.parametrize(
    ("said", "operator"),
    [
        (MLIR, "tfl.batch_matmul"),
        (
            "Missing out variants: {'quantized_decomposed::dequantize_per_channel'}",
            "quantized_decomposed::dequantize_per_channel",
        ),
        ("Lowering not found: aten.special_bessel_j0.default", "aten.special_bessel_j0.default"),
    ],
)
def test_operator_is_named_however_the_converter_writes_it(said: str, operator: str) -> None:
    sentence = str(unconvertible(RuntimeError(said), "LiteRT", nn.Linear(1, 1)))
    assert f"because of the operator {operator} (" in sentence
    assert "site-packages" not in sentence
    assert "\n" not in sentence


def test_want_of_memory_is_no_fault_of_the_network() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 50, dtype=torch.uint8)
    with pytest.raises(MemoryError, match="can't allocate memory"):
        unconvertible(refused.value, "LiteRT", nn.Linear(1, 1))
