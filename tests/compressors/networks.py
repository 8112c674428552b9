"""Two small networks, trained in seconds and exported for real; `python networks.py FOLDER` writes them with data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.inputs import program
from compressors.metrics import METRICS
from compressors.step import Context, Model, content_of
from compressors.steps.export_litert import STEP as EXPORT

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRICE_ROWS = 1200
SHAPE_ROWS = 300
SEED = 3


def price_rows(seed: int = SEED) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Eight features on very different scales, and a price that depends on them without noise to speak of."""
    rng = np.random.default_rng(seed)
    scales = np.array([1, 10, 0.1, 1000, 1, 5, 0.01, 1], np.float32)
    unit = rng.normal(size=(PRICE_ROWS, 8)).astype(np.float32)
    price = 2.0 + np.tanh(unit[:, 0]) + 0.5 * unit[:, 1] * unit[:, 2] + 0.3 * np.abs(unit[:, 3]) + 0.2 * unit[:, 4]
    return unit * scales, (price + rng.normal(0, 0.05, PRICE_ROWS)).astype(np.float32)[:, None]


def shape_rows() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Noisy pictures (1, 12, 12) with a bright bar: lying, standing, or slanted; each source gives three pictures."""
    rng = np.random.default_rng(SEED)
    classes = np.arange(SHAPE_ROWS) // 3 % 3
    pictures = rng.normal(0, 0.3, size=(SHAPE_ROWS, 1, 12, 12)).astype(np.float32)
    for picture, kind in zip(pictures[:, 0], classes, strict=True):
        at = int(rng.integers(2, 10))
        line = {0: (at, slice(None)), 1: (slice(None), at), 2: (np.arange(12), np.arange(12))}[int(kind)]
        picture[line] += 2.0
    return pictures, classes.astype(np.int64), np.arange(SHAPE_ROWS) // 3


def _fit(network: torch.nn.Module, loss: Any, x: Any, y: Any, *, epochs: int) -> torch.nn.Module:  # noqa: ANN401
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), 128):
            optimizer.zero_grad()
            loss(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def price_network() -> torch.nn.Module:
    """An MLP with a single output, its scaling inside."""
    torch.manual_seed(SEED)
    x, y = (torch.from_numpy(array) for array in price_rows())
    mean, std = x.mean(dim=0), x.std(dim=0)

    class Price(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(8, 32),
                torch.nn.ReLU(),
                torch.nn.Linear(32, 32),
                torch.nn.ReLU(),
                torch.nn.Linear(32, 1),
            )

        def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401
            return self.layers((features - mean) / std)

    return _fit(Price(), torch.nn.functional.mse_loss, x, y, epochs=40)


def shape_network() -> torch.nn.Module:
    """A small convnet; the last channel of its first layer is dead, as pruning leaves them."""
    torch.manual_seed(SEED)
    pictures, classes, _ = shape_rows()

    class Shapes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(1, 8, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
                torch.nn.ReLU6(),
                torch.nn.Conv2d(8, 16, 1),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(4),
                torch.nn.Flatten(),
                torch.nn.Linear(144, 3),
            )

        def forward(self, picture: torch.Tensor) -> Any:  # noqa: ANN401
            return self.layers(picture)

    network: Any = _fit(
        Shapes(), torch.nn.functional.cross_entropy, torch.from_numpy(pictures), torch.from_numpy(classes), epochs=25
    )
    with torch.no_grad():
        network.layers[0].weight[-1] = 0.0
        network.layers[0].bias[-1] = 0.0
    return network  # type: ignore[no-any-return]


def recommender() -> torch.nn.Module:
    """Two whole numbers in, one score out."""
    torch.manual_seed(SEED)

    class Recommender(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = torch.nn.Embedding(50, 8), torch.nn.Embedding(70, 8)
            self.layers = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

        def forward(self, user: torch.Tensor, item: torch.Tensor) -> Any:  # noqa: ANN401
            return self.layers(torch.cat([self.users(user), self.items(item)], dim=1))

    return Recommender().eval()


def write_recommender(folder: Path) -> None:
    """An untrained network knows its own order of items: relevant is what it scores highest."""
    network, rng = recommender(), np.random.default_rng(SEED)
    user, item, query = rng.integers(0, 50, 400), rng.integers(0, 70, 400), np.arange(400) // 20
    with torch.no_grad():
        scores = network(torch.from_numpy(user), torch.from_numpy(item)).numpy()[:, 0]
    best = [scores[q * 20 : q * 20 + 20].max() for q in query]
    relevant = (scores == best).astype(np.float32)
    np.savez(folder / "films.npz", user=user, item=item, query=query, target=relevant)
    free = {0: torch.export.Dim("batch", max=4096)}
    example = (torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64))
    program = torch.export.export(network, example, dynamic_shapes={"user": free, "item": free})
    torch.export.save(program, folder / "films.pt2")


def export(
    network: torch.nn.Module, path: Path, name: str, shape: tuple[int, ...], *, batch: int | None = None
) -> None:
    """Export with a free batch, or with a constant one."""
    example = torch.zeros(batch or 2, *shape)
    free = {name: {0: torch.export.Dim("batch", max=4096)}} if batch is None else None
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=free), path)


class Logarithm(torch.nn.Module):
    """Its second output is no number for half of the rows."""

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401
        return features[:, 1:2] * 2.0, torch.log(features[:, :1])


class OutOfBounds(torch.nn.Module):
    """Reads beyond the end of its input, which only the values of a real batch show."""

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401
        return torch.embedding(self.table, features[:, :1].long() + 7)[:, 0]

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(8, 1))


def write_broken(folder: Path) -> None:
    """Networks that load, and fail on the data of `price`."""
    export(Logarithm(), folder / "logarithm.pt2", "features", (8,))
    export(OutOfBounds().eval(), folder / "out-of-bounds.pt2", "features", (8,))
    network = program.load(folder / "logarithm.pt2")
    rows = evaluation_rows.load(folder / "price.npz", network.signature, Task.REGRESSION)
    context = Context(rows.calibration, rows.selection, Task.REGRESSION, METRICS["r2"])
    exported = EXPORT.apply(Model(network), context, EXPORT.parameters()).model
    (folder / "logarithm.tflite").write_bytes(content_of(exported))


def main(folder: Path) -> None:
    """Write all archives and their data."""
    features, prices = price_rows()
    np.savez(folder / "price.npz", features=features, target=prices)
    more, theirs = price_rows(SEED + 1)
    np.savez(folder / "price-train.npz", features=np.r_[more, features], target=np.r_[theirs, prices])
    pictures, classes, groups = shape_rows()
    np.savez(
        folder / "shapes.npz",
        picture=pictures,
        target=classes,
        group=groups,
        labels=np.array(["lying", "standing", "slanted"]),
    )
    price, shapes = price_network(), shape_network()
    export(price, folder / "price.pt2", "features", (8,))
    export(price, folder / "price-batch-1.pt2", "features", (8,), batch=1)
    export(price, folder / "price-batch-4.pt2", "features", (8,), batch=4)
    export(shapes, folder / "shapes.pt2", "picture", (1, 12, 12))
    write_recommender(folder)
    write_broken(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
