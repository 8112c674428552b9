"""ONNX Runtime's static quantization with what its documentation advises for the CPU that this runs on.

Source: the docstring of `onnxruntime.quantization.quantize_static`, "Choosing parameters for CPU inference". One scale
for each tensor is its default and the faster, one for each channel "can improve accuracy": both are made.
"""

from __future__ import annotations

import platform
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from onnxruntime import quantization

from benchmarks.peers.making import main, single

if TYPE_CHECKING:
    from benchmarks.peers.making import Recipes, Rows


class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package ships no types
    """The rows, one at a time."""

    def __init__(self, rows: Rows) -> None:
        self._rows = single(rows)

    def get_next(self) -> Rows | None:
        """The next row."""
        return next(self._rows, None)


def recipes_of(source: Path, rows: Rows) -> Recipes:
    """Both granularities of the weights."""
    scales = {"static_per_tensor": False, "static_per_channel": True}
    return {name: partial(quantized, source, rows, per_channel=flag) for name, flag in scales.items()}


def quantized(source: Path, rows: Rows, *, per_channel: bool) -> bytes:
    """The file of one recipe."""
    is_x86 = platform.machine() in {"x86_64", "AMD64", "i686"}
    kinds = quantization.QuantType
    with tempfile.TemporaryDirectory() as folder:
        prepared, target = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        quantization.quant_pre_process(str(source), str(prepared))
        quantization.quantize_static(
            str(prepared),
            str(target),
            Samples(rows),
            per_channel=per_channel,
            reduce_range=is_x86 and "vnni" not in Path("/proc/cpuinfo").read_text(),
            activation_type=kinds.QUInt8 if is_x86 else kinds.QInt8,
            weight_type=kinds.QInt8,
        )
        return target.read_bytes()


if __name__ == "__main__":
    main(recipes_of)
