"""An embedding with fewer rows than it has entries: several entries share a row, or an entry is the sum of two rows.

Source: Weinberger et al. 2009, arXiv:0902.2206 (hashing); Shi et al. 2020, arXiv:1909.02107 (quotient and remainder).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from compressors.network.layers import weight_of

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 25  # of Lloyd's algorithm, and of least squares: what a training refines anyway
RARE = 0.1  # an entry that was never looked up counts as much as this many look-ups


class Rows(nn.Module):
    """Which rows of a table an entry is made of."""

    def __init__(self, index: torch.Tensor) -> None:
        """Args: `index`: (entries,) or (entries, rows of each), int64."""
        super().__init__()
        self.index: torch.Tensor
        self.register_buffer("index", index)

    def forward(self, entry: torch.Tensor) -> torch.Tensor:
        """(...) to (...) or (..., rows of each)."""
        return self.index[entry]


class Sum(nn.Module):
    """The sum of the rows that an entry is made of."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., rows of each, width) to (..., width)."""
        return rows.sum(-2)


def shared(layer: nn.Embedding, looked_up: torch.Tensor | None, rows: int, *, seed: int) -> dict[str, nn.Module]:
    """Entries that are alike share a row: k-means on the rows, weighed by how often each is looked up.

    Args:
        layer: is not changed.
        looked_up: for each entry; None: all alike.
        rows: how many are left.
        seed: of the first means.
    """
    entries = weight_of(layer).float()
    counts = torch.ones(len(entries)) if looked_up is None else looked_up.float() + RARE
    generator = torch.Generator().manual_seed(seed)
    means = entries[torch.multinomial(counts, rows, generator=generator)]
    index = _nearest(entries, means)
    for _ in range(ROUNDS):
        total = torch.zeros(rows).index_add_(0, index, counts)
        sums = torch.zeros_like(means).index_add_(0, index, entries * counts[:, None])
        means = torch.where(total[:, None] > 0, sums / total.clamp(min=RARE)[:, None], means)
        index, before = _nearest(entries, means), index
        if torch.equal(index, before):
            break
    return {"rows": Rows(index), "table": _table(means)}


def hashed(layer: nn.Embedding, looked_up: torch.Tensor | None, rows: int) -> dict[str, nn.Module]:
    """Each entry is the sum of a row for its quotient and one for its remainder; the least squares of all entries.

    Raises:
        ValueError: that many rows are not enough for two tables that tell all entries apart.
    """
    entries = weight_of(layer).float()
    remainders = _remainders(len(entries), rows)
    quotients = -(-len(entries) // remainders)
    entry = torch.arange(len(entries))
    parts = (entry // remainders, entry % remainders)
    counts = torch.ones(len(entries)) if looked_up is None else looked_up.float() + RARE
    tables = [torch.zeros(size, entries.shape[1]) for size in (quotients, remainders)]
    for _ in range(ROUNDS):
        for own, other in ((0, 1), (1, 0)):
            left = (entries - tables[other][parts[other]]) * counts[:, None]
            total = torch.zeros(len(tables[own])).index_add_(0, parts[own], counts)
            tables[own] = torch.zeros_like(tables[own]).index_add_(0, parts[own], left) / total.clamp(min=RARE)[:, None]
    index = torch.stack([parts[0], parts[1] + quotients], dim=1)
    return {"rows": Rows(index), "table": _table(torch.cat(tables)), "sum": Sum()}


def least_hashed_rows(entries: int) -> int:
    """The fewest rows of two tables whose pairs tell all entries apart."""
    near = math.isqrt(entries)
    return min(size + -(-entries // size) for size in range(max(1, near - 1), near + 2))


def _remainders(entries: int, rows: int) -> int:
    """The largest table of remainders for which both tables together have no more rows than that."""
    for size in range(rows - 1, 0, -1):
        if size + -(-entries // size) <= rows:
            return size
    raise ValueError(f"{rows} rows make no two tables for {entries} entries; {least_hashed_rows(entries)} are needed")


def _nearest(entries: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    pieces: Sequence[torch.Tensor] = entries.split(4096)  # distances of a few thousand at a time
    return torch.cat([torch.cdist(piece, means).argmin(1) for piece in pieces])


def _table(rows: torch.Tensor) -> nn.Module:
    table: nn.Module = nn.Embedding.from_pretrained(rows, freeze=False)
    return table
