"""Deltas between versions, and the codebook and sparse forms, in bytes on the wire.

    python -m benchmarks.deltas [--models FOLDER] [--rows 20000] [--epochs 1] [--pair NAME OLD NEW] [--json FILE]

The network is the one of benchmarks.pruning, trained here; `--models` keeps its weights for another run. Version 2 is
version 1 fine-tuned on some rows, or with the last layer of the fine-tuned one alone. `--pair` adds files of yours.
`whole` is what Shoal packs; `bsdiff` and `xdelta3` stand beside where their Python packages are there.

The second table holds what Shoal packs of clustered and sparse weights against what an explicit form could reach: a
codebook with indices, or a bit for each weight and the values that are not zero, each coded by an ideal coder that
knows how often each symbol comes in its tensor, tables not counted. No code of that kind is smaller.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from benchmarks.pruning import TOP1, Rows, split_of, trained
from compressors.contract import Task
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.packing.deltas import make_delta
from compressors.packing.package import encode
from compressors.step import Context, Model, content_of
from compressors.steps.cluster import STEP as CLUSTER
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.fine_tune import STEP as FINE_TUNE
from compressors.steps.prune_weights import STEP as PRUNE
from compressors.steps.quantize_static import INT8

if TYPE_CHECKING:
    from compressors.step import AnyStep

SEED = 0
WORTH_A_FORM = 0.97  # an explicit form must be at least 3 % smaller


class Shop:
    """Applies steps."""

    def __init__(self, rows: Rows, mending_rows: int) -> None:
        few = split_of(rows.train.inputs["input"][:mending_rows], rows.train.target[:mending_rows])
        self._context = Context(rows.calibration, rows.selection, Task.CLASSIFICATION, TOP1, train=few, seed=SEED)

    def applied(self, step: AnyStep, model: Model, **parameters: object) -> Model:
        """The model after a step."""
        return step.apply(model, self._context, step.parameters.model_validate(parameters)).model

    def file(self, model: Model) -> bytes:
        """As LiteRT."""
        return content_of(self.applied(EXPORT, model))

    def int8(self, model: Model, **parameters: object) -> bytes:
        """As LiteRT with 8 bits."""
        return content_of(self.applied(INT8, self.applied(EXPORT, model), **parameters))


def with_head_of(model: Model, other: Model) -> Model:
    """The network with the last layer of another."""
    module, donor = copy.deepcopy(graph_of(model.network.module)), graph_of(other.network.module)
    (name, layer), (_, given) = list(weighted_layers(module))[-1], list(weighted_layers(donor))[-1]
    if not isinstance(layer, nn.Linear):
        raise SystemExit(f"the last layer is no linear one but {name}")
    weight_of(layer).copy_(weight_of(given))
    return replace(model, network=replace(model.network, module=module))


def figures_of(base: bytes, payload: bytes) -> dict[str, float]:
    """Bytes of each way from one file to the other, and how long ours takes to make."""
    whole = len(encode(payload)[0])
    began_s = time.perf_counter()
    made = make_delta(base, payload, whole_bytes=1 << 40, base_sha256="0" * 64)
    took_s = time.perf_counter() - began_s
    found = {"file": len(payload), "whole": whole, "delta": len(made[0]) if made else 0, "made in s": round(took_s, 2)}
    for name, call in (("bsdiff4", "diff"), ("xdelta3", "encode")):
        try:
            found[name] = len(getattr(importlib.import_module(name), call)(base, payload))
        except ModuleNotFoundError:
            continue
    return found


def ideal_bytes(module: nn.Module, *, sparse: bool) -> float:
    """What an ideal coder needs for the weights of a network, tensor by tensor."""
    bits = 0.0
    for _, layer in weighted_layers(module):
        words = weight_of(layer).numpy().astype("<f4").view("<u4").ravel()
        if sparse:
            filled = words[words != 0]
            share = len(filled) / len(words)
            planes = filled.view(np.uint8).reshape(-1, 4)
            bits += len(words) * entropy_bits(np.array([share, 1 - share]))
            bits += sum(len(filled) * entropy_bits(np.bincount(planes[:, plane])) for plane in range(4))
        else:
            bits += len(words) * entropy_bits(np.unique(words, return_counts=True)[1])
    return bits / 8


def entropy_bits(counts: np.ndarray[Any, Any]) -> float:
    """Of one symbol."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def forms(shop: Shop, model: Model) -> dict[str, dict[str, float]]:
    """The packed weights beside the ideal: what the file holds beside them is counted with both."""
    found: dict[str, dict[str, float]] = {}
    ways: dict[str, tuple[AnyStep, dict[str, object]]] = {
        "16 values": (CLUSTER, {"values": 16}),
        "64 values": (CLUSTER, {"values": 64}),
        "80 % zeros": (PRUNE, {"sparsity": 0.8}),
        "95 % zeros": (PRUNE, {"sparsity": 0.95}),
    }
    for name, (step, parameters) in ways.items():
        changed = shop.applied(step, model, **parameters)
        packed = len(encode(shop.file(changed))[0])
        weights = sum(weight_of(layer).numel() for _, layer in weighted_layers(changed.network.module))
        ideal = ideal_bytes(changed.network.module, sparse=step is PRUNE)
        found[name] = {"weights": weights, "packed": packed, "ideal, weights alone": round(ideal)}
    return found


def main() -> None:
    """Make versions, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, metavar="FOLDER")
    parser.add_argument("--rows", type=int, default=20_000, help="that fine-tuning sees")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--pair", nargs=3, action="append", default=[], metavar=("NAME", "OLD", "NEW"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = Rows.read()
    shop, one = Shop(rows, options.rows), Model(trained(rows, SEED, options.models))
    two = shop.applied(FINE_TUNE, one, epochs=options.epochs, learning_rate=1e-4, teacher=False)
    head, int8 = with_head_of(one, two), shop.int8(one)
    pairs = {
        "float, the same again": (shop.file(one), shop.file(one)),
        "float, fine-tuned": (shop.file(one), shop.file(two)),
        "float, last layer changed": (shop.file(one), shop.file(head)),
        "float, 80 % of the weights pruned": (shop.file(one), shop.file(shop.applied(PRUNE, one, sparsity=0.8))),
        "int8, fine-tuned": (int8, shop.int8(two)),
        "int8, last layer changed": (int8, shop.int8(head)),
        "int8, calibrated otherwise": (int8, shop.int8(one, calibration="percentile", percentile=99.9)),
        **{name: (Path(old).read_bytes(), Path(new).read_bytes()) for name, old, new in options.pair},
    }
    told = {"deltas": {name: figures_of(*pair) for name, pair in pairs.items()}, "forms": forms(shop, one)}
    for table, lines in told.items():
        print(f"\n{table}")
        for name, figures in lines.items():
            print(f"{name:36}" + "  ".join(f"{key} {value:,}" for key, value in figures.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
