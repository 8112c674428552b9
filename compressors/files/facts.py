"""What is really inside the file of a target: operators, which of them compute with integers, and their MACs.

A step's effect is read from its file, never believed: `tflite_file`, `onnx_file` and `pte_file` each read one format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW_VALUES = 256  # in the weights of a layer: it was clustered
_CLUSTERED_FROM = 4 * _FEW_VALUES  # weights: a smaller layer has few values anyway
_SPARSE_FROM = 0.2  # share of zeros


@dataclass(frozen=True)
class FileFacts:
    """What a file holds."""

    operators: int
    quantized_operators: int  # with quantized activations or weights
    macs: int
    # weighted operators by output name: "CONV_2D int8 x int8", "CONV_2D float32 x float32, 80% zeros, 16 values"
    layers: dict[str, str] = field(default_factory=dict)

    @property
    def integer_layers(self) -> int:
        """Weighted operators whose weights are integers."""
        return sum("int8" in kind or "int4" in kind for kind in self.layers.values())


def special_weights(weights: NDArray[np.float32]) -> str:
    """What is special about a layer's float weights: that many are zero, or that they have few values."""
    if weights.size == 0:
        return ""
    zeros, values = float((weights == 0).mean()), len(np.unique(weights))
    said = f", {zeros:.0%} zeros" if zeros >= _SPARSE_FROM else ""
    return said + (f", {values} values" if values <= _FEW_VALUES and weights.size >= _CLUSTERED_FROM else "")
