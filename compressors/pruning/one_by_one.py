"""Optimal brain surgeon as it was meant: after each weight that goes its output's others move, and are judged anew.

Which weights go is the greedy choice of optimal brain compression: every output is emptied weight by weight on its
own, and the layer then takes the cheapest beginnings. That costs an inverse that changes with every weight, so it is
for layers of a few hundred inputs.
Source: Hassibi & Stork 1993; Frantar & Alistarh 2022, arXiv:2208.11580, algorithms 1 to 3.
"""

from __future__ import annotations

import torch

from compressors.pruning.weights import lowest

CHUNK_BYTES = 1 << 24  # of inverses that change at a time: what a cache holds is several times as quick as memory


def cheapest(rows: torch.Tensor, moment: torch.Tensor, count: int) -> torch.Tensor:
    """Which weights go, as a mask of the shape of `rows`.

    Args:
        rows: (groups, outputs, n), float64; not modified. Weights that are zero go first.
        moment: (groups, n, n), damped: E[x x^T] over what the weights of a group multiply.
        count: how many of them all go.
    """
    inverse = torch.linalg.inv(moment)
    order = torch.empty(rows.shape, dtype=torch.long)
    price = torch.empty_like(rows)
    step = max(1, CHUNK_BYTES // (moment.shape[2] ** 2 * moment.element_size()))
    for group in range(rows.shape[0]):
        for start in range(0, rows.shape[1], step):
            place = (group, slice(start, start + step))
            order[place], price[place] = _emptied(rows[place], inverse[group])
    # a weight goes after those before it of its output, so that it costs no less than they do
    first = lowest(price.cummax(-1).values, count)
    return torch.zeros_like(first).scatter_(-1, order, first)


def _emptied(rows: torch.Tensor, inverse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In which order the weights of each output go until none is left, and what each costs; both (outputs, n)."""
    left = rows.clone()
    outputs, columns = left.shape
    inverses = inverse.expand(outputs, -1, -1).clone()
    every = torch.arange(outputs)
    gone = torch.zeros(left.shape, dtype=torch.bool)
    order, price = torch.empty(left.shape, dtype=torch.long), torch.empty_like(left)
    for number in range(columns):
        costs = (left.square() / inverses.diagonal(dim1=1, dim2=2)).masked_fill_(gone, torch.inf)
        price[:, number], own = costs.min(1)
        order[:, number] = own
        column = inverses[every, :, own]
        pivot = column[every, own, None]
        left -= left[every, own, None] / pivot * column
        gone[every, own] = True
        left.masked_fill_(gone, 0.0)
        inverses.baddbmm_(column[:, :, None], (column / -pivot)[:, None, :])
        inverses[every, own, own] = 1.0  # its row and column are zero now: nothing is divided by that
    return order, price


def made_up(rows: torch.Tensor, moment: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """The weights without those that go; the others of each output are those by which it changes least.

    Args:
        rows: as for `cheapest`.
        moment: as for `cheapest`.
        gone: a mask of the shape of `rows`.
    """
    found = torch.zeros_like(rows)
    for group, seen in enumerate(moment):
        wanted = rows[group] @ seen
        for output, kept in enumerate(~gone[group]):
            factor = torch.linalg.cholesky(seen[kept][:, kept])
            found[group, output, kept] = torch.cholesky_solve(wanted[output, kept, None], factor)[:, 0]
    return found
