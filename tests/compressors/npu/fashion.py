"""A small convnet on real photos of clothes, exported with its data; `python fashion.py SOURCE FOLDER EPOCHS`."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_BYTES = {"images": 16, "labels": 8}
SIDE = 28


def read(source: Path, part: str, kind: str) -> NDArray[np.uint8]:
    """One file of the data set, in the format of MNIST."""
    dimensions = {"images": 3, "labels": 1}[kind]
    content = gzip.decompress((source / f"{part}-{kind}-idx{dimensions}-ubyte.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=HEADER_BYTES[kind])


def pictures(source: Path, part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    values = read(source, part, "images").reshape(-1, 1, SIDE, SIDE).astype(np.float32) / np.float32(255)
    return values, read(source, part, "labels").astype(np.int64)


def convnet() -> torch.nn.Module:
    """Six million multiplications, 3x3 convolutions."""
    layers: list[torch.nn.Module] = []
    for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [
            torch.nn.Conv2d(before, after, 3, stride, 1, bias=False),
            torch.nn.BatchNorm2d(after),
            torch.nn.ReLU(),
        ]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10))


def main(source: Path, folder: Path, epochs: int, rows: int) -> None:
    torch.manual_seed(0)
    network: Any = convnet().train()
    x, y = (torch.from_numpy(array[:rows]) for array in pictures(source, "train"))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(x)), 128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    free = {"input": {0: torch.export.Dim("batch", max=4096)}}
    program = torch.export.export(network.eval(), (torch.zeros(2, 1, SIDE, SIDE),), dynamic_shapes=free)
    torch.export.save(program, folder / "fashion.pt2")
    photos, labels = pictures(source, "t10k")
    np.savez(folder / "fashion.npz", input=photos[:3000], target=labels[:3000])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
