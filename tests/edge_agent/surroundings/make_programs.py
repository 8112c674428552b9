"""Run as a script: dense layers from an `.npz` (`w0 b0 w1 b1`) as `float.pte`, `int8.pte`; a table as `embedding.pte`.

Through the real exporter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e


def main(weights: Path, folder: Path) -> None:
    with np.load(weights) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    layers: list[torch.nn.Module] = []
    for i in range(len(arrays) // 2):
        dense = torch.nn.Linear(arrays[f"w{i}"].shape[1], arrays[f"w{i}"].shape[0])
        dense.load_state_dict({"weight": arrays[f"w{i}"], "bias": arrays[f"b{i}"]})
        layers += [dense, torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1]).eval()
    rows = torch.rand(512, arrays["w0"].shape[1]) * 2 - 1
    exported = torch.export.export(network, (rows[:1],))
    lower(exported, folder / "float.pte")
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(exported.module(), quantizer)
    for row in rows:
        prepared(row[None])
    table = torch.nn.Embedding.from_pretrained(torch.arange(40.0).reshape(10, 4))
    lower(torch.export.export(table, (torch.zeros(1, dtype=torch.int32),)), folder / "embedding.pte")
    lower(torch.export.export(convert_pt2e(prepared), (rows[:1],)), folder / "int8.pte")


def lower(exported: torch.export.ExportedProgram, path: Path) -> None:
    path.write_bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
