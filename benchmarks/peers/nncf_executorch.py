"""NNCF's post-training quantization of a torch.export graph, lowered to ExecuTorch's XNNPACK backend.

`quantize_pt2e` with its defaults (300 calibration rows, fast bias correction) under ExecuTorch's own quantizer, one
scale for each channel as the XNNPACK page advises; and with the bias correction that NNCF calls more accurate. The way
through ExecuTorch's OpenVINO backend is closed: executorch 1.5.1 wants openvino < 2026, with which NNCF 3.4.0 fails to
be imported (`openvino.Type` has no `u2`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import nncf
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from nncf.experimental.torch.fx import quantize_pt2e

from benchmarks.peers.making import main, single

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers.making import Recipes, Rows


def recipes_of(source: Path, rows: Rows) -> Recipes:
    """Both bias corrections."""
    ways = {"quantize_pt2e": True, "quantize_pt2e_accurate_bias": False}
    return {name: partial(quantized, source, rows, fast_bias_correction=flag) for name, flag in ways.items()}


def quantized(source: Path, rows: Rows, *, fast_bias_correction: bool) -> bytes:
    """The file of one recipe."""
    samples = [tuple(map(torch.from_numpy, row.values())) for row in single(rows)]
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    dataset = nncf.Dataset(samples, lambda sample: sample[0] if len(sample) == 1 else sample)
    module = torch.export.load(source).module()
    network = quantize_pt2e(module, quantizer, dataset, fast_bias_correction=fast_bias_correction)
    exported = torch.export.export(network, samples[0])
    return bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


if __name__ == "__main__":
    main(recipes_of)
