"""Optimal brain surgeon, layer by layer: weights go, and the others move so that the layer's outputs change least.

The squared error of a layer's outputs has the Hessian E[x x^T] over its inputs, the same for each output: a closed
form, no training. Small layers lose their weights one by one; in large ones that would take hours, and they are gone
through column by column, and what is left is moved by least squares where that is possible.
Source: Hassibi & Stork 1993, "Optimal Brain Surgeon"; Frantar & Alistarh 2022, "Optimal Brain Compression",
arXiv:2208.11580; column by column: Frantar & Alistarh 2023, "SparseGPT", arXiv:2301.00774.
"""

from __future__ import annotations

import torch

from compressors.pruning import one_by_one
from compressors.pruning.weights import lowest

SMALL = 4e10  # outputs x weights^3 of a layer whose weights go one by one: some ten seconds of a core
SOLVED = 4e11  # the sum over outputs of what is left, cubed, up to which it is moved by least squares
BLOCK = 32  # columns that are gone through before it is chosen anew which weights go
DAMPING = 0.01  # of the mean second moment, so that inputs that go together can be told apart


def without_weights(weight: torch.Tensor, moment: torch.Tensor, count: int) -> torch.Tensor:
    """A layer's weights with `count` of them at zero, and the rest moved to make up for those.

    Args:
        weight: (outputs, ...); not modified.
        moment: (groups, n, n), n the weights of an output: E[x x^T] over what they multiply.
        count: how many are zero then; those that were before are among them, and all of them stay so.

    Returns:
        Weights of the same shape.
    """
    rows = weight.reshape(moment.shape[0], -1, moment.shape[2]).double()
    if rows.numel() * moment.shape[2] ** 2 <= SMALL:
        damped = torch.stack([_damped(one) for one in moment])
        gone = one_by_one.cheapest(rows, damped, count) | (rows == 0.0)
        return one_by_one.made_up(rows, damped, gone).reshape(weight.shape).to(weight.dtype)
    pruned = _by_columns(rows.clone(), moment, count)
    gone = pruned == 0.0
    if float((~gone).sum(-1).double().pow(3).sum()) <= SOLVED:
        pruned = one_by_one.made_up(rows, torch.stack([_damped(one) for one in moment]), gone)
    return pruned.reshape(weight.shape).to(weight.dtype)


def _by_columns(rows: torch.Tensor, moment: torch.Tensor, count: int) -> torch.Tensor:
    """The same in one go over the columns, in place: only those behind a weight that goes make up for it."""
    inverse = torch.stack([_inverse_factor(one) for one in moment])
    zero = rows == 0.0
    columns, left = moment.shape[2], count
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        # chosen among all columns to come: an equal share of each block costs several times the error
        cost = (rows[..., start:] / _diagonal(inverse)[:, None, start:]).square().masked_fill(zero[..., start:], -1.0)
        gone = lowest(cost, max(left, 0))[..., : end - start] | zero[..., start:end]
        left -= int(gone.sum())
        _clear(rows, inverse, gone, start)
    return rows


def _clear(rows: torch.Tensor, inverse: torch.Tensor, gone: torch.Tensor, start: int) -> None:
    """Set some weights of a block of columns to zero, in place; the columns behind each make up for it.

    Args:
        rows: (groups, outputs, columns).
        inverse: upper Cholesky factors of the inverse, (groups, columns, columns).
        gone: (groups, outputs, columns of the block).
        start: the block's first column.
    """
    end = start + gone.shape[2]
    errors = torch.zeros_like(rows[..., start:end])
    for column in range(start, end):
        own = gone[..., column - start]
        error = rows[..., column] * own / inverse[:, None, column, column]
        rows[..., column:end] -= error[..., None] * inverse[:, None, column, column:end]
        rows[..., column].masked_fill_(own, 0.0)
        errors[..., column - start] = error
    rows[..., end:] -= errors @ inverse[:, start:end, end:]


def _diagonal(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.diagonal(dim1=1, dim2=2)


def output_error(before: torch.Tensor, after: torch.Tensor, moment: torch.Tensor) -> float:
    """The squared error of a layer's outputs as a share of their squares; see `without_weights`."""
    groups, outputs = moment.shape[0], before.shape[0]
    old = before.reshape(groups, outputs // groups, -1).double()
    change = after.reshape(old.shape).double() - old
    lost, whole = (float((rows @ moment * rows).sum()) for rows in (change, old))
    return lost / whole if whole > 0.0 else 0.0


def without_inputs(weight: torch.Tensor, moment: torch.Tensor, gone: list[int]) -> torch.Tensor:
    """A layer's weights with all of some inputs at zero, and the rest moved to make up for them.

    Args:
        weight: (outputs, inputs, ...), of one group; not modified.
        moment: (1, n, n), see `without_weights`.
        gone: the inputs that go; not all of them.

    Source: He et al. 2017, arXiv:1707.06168, equation 4: the surgeon's closed form for a whole set.
    """
    rows = weight.flatten(1).double()
    kept = torch.ones(weight.shape[1], dtype=torch.bool)
    kept[gone] = False
    columns = kept.repeat_interleave(rows.shape[1] // weight.shape[1])
    seen = _damped(moment[0])
    found = torch.zeros_like(rows)
    factor = torch.linalg.cholesky(seen[columns][:, columns])
    found[:, columns] = torch.cholesky_solve(seen[columns] @ rows.T, factor).T
    return found.reshape(weight.shape).to(weight.dtype)


def _inverse_factor(moment: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_damped(moment)))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _damped(moment: torch.Tensor) -> torch.Tensor:
    damped = moment.clone()
    mean = float(damped.diagonal().mean())
    damped.diagonal().add_(DAMPING * mean if mean > 0.0 else 1.0)
    return damped
