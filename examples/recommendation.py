"""Films to recommend: neural collaborative filtering on MovieLens 100k, trained here in about a minute.

The ratings lie inside the package recbole (Harper and Konstan 2015, for research only). Two networks of one kind
(NeuMF: He et al. 2017, arXiv:1708.05031):

- `films` ranks: the last film of each user is held back and ranked among 99 films that the user never rated (HR@10);
- `ratings` foretells the stars that a user gives (RMSE).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from examples.packaged import packaged_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

USERS, ITEMS = 943, 1682
WIDTH = 32  # of each embedding
UNSEEN = 99  # films that the held-back one is ranked among
NEGATIVES = 4  # for each film that a user rated, anew in each epoch
EVAL_RATINGS = 20_000
BATCH = 1024
SEED = 7


class Ratings(NamedTuple):
    """100,000 rows, oldest first; users and films are numbered from 0."""

    user: Ids
    item: Ids
    stars: NDArray[np.float32]


def embedding(rows: int) -> torch.nn.Embedding:
    """A table of small numbers, WIDTH for each row."""
    table = torch.nn.Embedding(rows, WIDTH)
    torch.nn.init.normal_(table.weight, std=0.05)
    return table


class NeuMF(torch.nn.Module):
    """A user and a film to one number: a product of factors beside a perceptron, each with embeddings of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.user_factors, self.user_features = embedding(USERS), embedding(USERS)
        self.item_factors, self.item_features = embedding(ITEMS), embedding(ITEMS)
        self.perceptron = torch.nn.Sequential(
            torch.nn.Linear(2 * WIDTH, 64), torch.nn.ReLU(), torch.nn.Linear(64, WIDTH), torch.nn.ReLU()
        )
        self.score = torch.nn.Linear(2 * WIDTH, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> Any:  # noqa: ANN401  torch carries no types
        """A score or stars, shape (n, 1), of users (n,) and films (n,)."""
        product = self.user_factors(user) * self.item_factors(item)
        features = torch.cat([self.user_features(user), self.item_features(item)], dim=1)
        return self.score(torch.cat([product, self.perceptron(features)], dim=1))


def load() -> Ratings:
    """The ratings."""
    path = packaged_files("recbole", suffix="ml-100k.inter")[0]
    rows = np.loadtxt(path, delimiter="\t", skiprows=1, dtype=np.int64)
    rows = rows[np.argsort(rows[:, 3], kind="stable")]
    return Ratings(rows[:, 0] - 1, rows[:, 1] - 1, rows[:, 2].astype(np.float32))


def last_of_each_user(ratings: Ratings) -> Ids:
    """The row of each user's last rating, by user."""
    last = np.zeros(USERS, np.int64)
    last[ratings.user] = np.arange(len(ratings.user))
    return last


def batches(rows: Ids) -> Iterator[Ids]:
    """All rows once, in portions."""
    order = torch.randperm(len(rows)).numpy()
    for start in range(0, len(rows), BATCH):
        yield rows[order[start : start + BATCH]]


def train_ranking(ratings: Ratings, *, epochs: int = 20) -> NeuMF:
    """Train on what users rated, against films that they did not rate."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    seen = np.zeros((USERS, ITEMS), bool)
    seen[ratings.user, ratings.item] = True
    rows = np.setdiff1d(np.arange(len(ratings.user)), last_of_each_user(ratings))
    model = NeuMF()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-6)
    for _ in range(epochs):
        for batch in batches(rows):
            user = np.concatenate([ratings.user[batch], np.repeat(ratings.user[batch], NEGATIVES)])
            item = np.concatenate([ratings.item[batch], rng.integers(ITEMS, size=NEGATIVES * len(batch))])
            wanted = torch.from_numpy(seen[user, item].astype(np.float32))
            optimizer.zero_grad()
            scores = model(torch.from_numpy(user), torch.from_numpy(item))[:, 0]
            torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted).backward()
            optimizer.step()
    return model.eval()


def train_stars(ratings: Ratings, rows: Ids, *, epochs: int = 8) -> NeuMF:
    """Train on the stars of some rows."""
    torch.manual_seed(SEED)
    model = NeuMF()
    torch.nn.init.constant_(model.score.bias, float(ratings.stars[rows].mean()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for batch in batches(rows):
            optimizer.zero_grad()
            stars = model(torch.from_numpy(ratings.user[batch]), torch.from_numpy(ratings.item[batch]))[:, 0]
            torch.nn.functional.mse_loss(stars, torch.from_numpy(ratings.stars[batch])).backward()
            optimizer.step()
    return model.eval()


def write_model(path: Path, model: NeuMF) -> None:
    """A trained network as a `.pt2` with a free batch dimension."""
    example = (torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    batch = torch.export.Dim("batch", max=65536)
    torch.export.save(torch.export.export(model, example, dynamic_shapes=({0: batch}, {0: batch})), path)


def write_ranking_data(folder: Path, ratings: Ratings) -> None:
    """`films.npz`: 100 films a user, one of them held back; `films-train.npz`: the other ratings, and unseen films."""
    rng = np.random.default_rng(SEED)
    seen = np.zeros((USERS, ITEMS), bool)
    seen[ratings.user, ratings.item] = True
    last = last_of_each_user(ratings)
    unseen = np.stack([rng.choice(np.flatnonzero(~row), UNSEEN, replace=False) for row in seen])
    items = np.concatenate([ratings.item[last][:, None], unseen], axis=1)
    users = np.repeat(np.arange(USERS), UNSEEN + 1)
    target = np.tile(np.eye(1, UNSEEN + 1, dtype=np.float32)[0], USERS)
    np.savez(folder / "films.npz", user=users, item=items.ravel(), target=target, query=users)
    rated = np.setdiff1d(np.arange(len(ratings.user)), last)
    user = np.concatenate([ratings.user[rated], np.repeat(ratings.user[rated], NEGATIVES)])
    item = np.concatenate([ratings.item[rated], rng.integers(ITEMS, size=NEGATIVES * len(rated))])
    held_back = seen.copy()
    held_back[ratings.user[last], ratings.item[last]] = False
    np.savez(folder / "films-train.npz", user=user, item=item, target=held_back[user, item].astype(np.float32))


def write_star_data(folder: Path, ratings: Ratings, held_back: Ids, rows: Ids) -> None:
    """`ratings.npz` and `ratings-train.npz`: users, films, stars."""
    for name, chosen in (("ratings", held_back), ("ratings-train", rows)):
        stars = ratings.stars[chosen][:, None]
        np.savez(folder / f"{name}.npz", user=ratings.user[chosen], item=ratings.item[chosen], target=stars)


def main() -> None:
    """Write both networks and their data into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    ratings = load()
    write_ranking_data(folder, ratings)
    write_model(folder / "films-1.pt2", train_ranking(ratings))
    order = np.random.default_rng(SEED).permutation(len(ratings.user))
    held_back, rows = order[:EVAL_RATINGS], order[EVAL_RATINGS:]
    write_star_data(folder, ratings, held_back, rows)
    write_model(folder / "ratings-1.pt2", train_stars(ratings, rows))


if __name__ == "__main__":
    main()
