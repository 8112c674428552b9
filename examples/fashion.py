"""Clothes to sort: a CNN of 9 M multiply-accumulates on Fashion-MNIST, trained here in a few minutes.

The pictures (Xiao et al. 2017, arXiv:1708.07747) are those of the Debian package dataset-fashion-mnist. 20,000 train;
10,000 of the test files are the evaluation set.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.packaged import DataMissingError

PARTS = ("images-idx3", "labels-idx1")
FOLDER = Path("/usr/share/datasets/fashion-mnist")
MEAN, SPREAD = 0.286, 0.353  # of the training pictures
TRAINED = 20_000
EPOCHS = 6
SEED = 7


def pictures(kind: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Normalised pictures (rows, 1, 28, 28) float32 and their classes (rows,) int64.

    Args:
        kind: `train` (60,000 rows) or `t10k` (10,000).

    Raises:
        DataMissingError: the Debian package is not installed.
    """
    try:
        raw = {part: gzip.decompress((FOLDER / f"{kind}-{part}-ubyte.gz").read_bytes()) for part in PARTS}
    except FileNotFoundError as exc:
        raise DataMissingError("Fashion-MNIST is missing: apt-get install dataset-fashion-mnist") from exc
    shades = np.frombuffer(raw[PARTS[0]], np.uint8, offset=16).reshape(-1, 1, 28, 28)
    classes = np.frombuffer(raw[PARTS[1]], np.uint8, offset=8).astype(np.int64)
    return ((shades / np.float32(255) - MEAN) / SPREAD).astype(np.float32), classes


def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """A 3x3 convolution with its norm."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def cnn() -> nn.Module:
    """Five 3x3 convolutions: 9.1 M multiply-accumulates."""
    body = [*block(1, 16, 1), *block(16, 32, 2), *block(32, 64, 1), *block(64, 64, 2), *block(64, 96, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def train() -> nn.Module:
    """The network, trained on the first pictures."""
    torch.manual_seed(SEED)
    inputs, classes = pictures("train")
    x, y = torch.from_numpy(inputs[:TRAINED]), torch.from_numpy(classes[:TRAINED])
    model = cnn()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    portions = (TRAINED + 127) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=EPOCHS * portions)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAINED).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Write the network and its data into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, rows in (("fashion", "t10k", 10_000), ("fashion-train", "train", TRAINED)):
        inputs, classes = pictures(kind)
        np.savez(folder / f"{name}.npz", input=inputs[:rows], target=classes[:rows])
    free = ({0: torch.export.Dim("batch", max=4096)},)
    exported = torch.export.export(train(), (torch.zeros(2, 1, 28, 28),), dynamic_shapes=free)
    torch.export.save(exported, folder / "fashion-1.pt2")


if __name__ == "__main__":
    main()
