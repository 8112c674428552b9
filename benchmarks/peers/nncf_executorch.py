"""NNCF's post-training quantization of a torch.export graph, lowered to ExecuTorch's XNNPACK backend.

`quantize_pt2e` with its defaults (300 calibration rows, fast bias correction) under ExecuTorch's own quantizer, one
scale for each channel as the XNNPACK page advises; with the bias correction that NNCF calls more accurate; and with
ranges from the true minimum and maximum, because the default takes the mean over rows, which a single output does not
survive. The way through ExecuTorch's OpenVINO backend is closed: executorch 1.5.1 wants openvino < 2026, with which
NNCF 3.4.0 fails to be imported (`openvino.Type` has no `u2`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import nncf
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from nncf.experimental.torch.fx import quantize_pt2e
from nncf.quantization.range_estimator import RangeEstimatorParametersSet

from benchmarks.peers.making import main, single

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.making import Recipes, Rows


def recipes_of(source: Path, rows: Rows) -> Recipes:
    """What its documentation offers for accuracy, one thing at a time."""
    ways: dict[str, dict[str, Any]] = {
        "quantize_pt2e": {},
        "quantize_pt2e_accurate_bias": {"fast_bias_correction": False},
        "quantize_pt2e_minmax": {"activations_range_estimator_params": RangeEstimatorParametersSet.MINMAX},
    }
    return {name: partial(quantized, source, rows, **options) for name, options in ways.items()}


def quantized(source: Path, rows: Rows, **options: Any) -> bytes:  # noqa: ANN401  NNCF's own
    """The file of one recipe."""
    samples = [tuple(map(torch.from_numpy, row.values())) for row in single(rows)]
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    dataset = nncf.Dataset(samples, lambda sample: sample[0] if len(sample) == 1 else sample)
    module = torch.export.load(source).module()
    network = quantize_pt2e(module, quantizer, dataset, **options)
    exported = torch.export.export(network, samples[0])
    return bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


if __name__ == "__main__":
    main(recipes_of)
