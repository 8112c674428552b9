"""litert-quantizer with each of its ready-made recipes, calibrated in the way that its README recommends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ai_edge_litert.interpreter import Interpreter
from litert_quantizer import calibrator, quantizer, recipe

from benchmarks.peers.making import main, single

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.making import Recipes, Rows

NAMES = (
    "dynamic_wi8_afp32",
    "dynamic_wi4_afp32",
    "weight_only_wi8_afp32",
    "weight_only_wi4_afp32",
    "static_wi8_ai8",
    "static_wi8_ai16",
)
SIGNATURE = "serving_default"


def recipes_of(source: Path, rows: Rows) -> Recipes:
    """Every recipe that is no language model's."""
    return {name: partial(quantized, source, rows, name) for name in NAMES}


def quantized(source: Path, rows: Rows, name: str) -> bytes:
    """The file of one recipe."""
    peer = quantizer.Quantizer(str(source))
    peer.load_quantization_recipe(getattr(recipe, name)())
    result = None
    if peer.need_calibration:
        names = sorted(Interpreter(model_path=str(source)).get_signature_list()[SIGNATURE]["inputs"])
        samples = [dict(zip(names, row.values(), strict=True)) for row in single(rows)]
        result = peer.calibrate({SIGNATURE: samples}, mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED)
    return bytes(peer.quantize(result).quantized_model)


if __name__ == "__main__":
    main(recipes_of)
