"""Optimal brain surgeon, layer by layer: weights go, and the others move so that the layer's outputs change least.

The squared error of a layer's outputs has the Hessian E[x x^T] over its inputs, the same for each output: a closed
form, no training. Source: Hassibi & Stork 1993, "Optimal Brain Surgeon"; Frantar & Alistarh 2022, "Optimal Brain
Compression", arXiv:2208.11580; column by column: Frantar & Alistarh 2023, "SparseGPT", arXiv:2301.00774.
"""

from __future__ import annotations

import torch

from compressors.pruning.weights import lowest

BLOCK = 128  # columns whose weights are chosen together
DAMPING = 0.01  # of the mean second moment, so that inputs that go together can be told apart


def without_weights(weight: torch.Tensor, moment: torch.Tensor, count: int) -> torch.Tensor:
    """A layer's weights with `count` of them at zero, and the rest moved to make up for those.

    Args:
        weight: (outputs, ...); not modified.
        moment: (groups, n, n), n the weights of an output: E[x x^T] over what they multiply.
        count: how many are zero then.

    Returns:
        Weights of the same shape.
    """
    outputs, groups = weight.shape[0], moment.shape[0]
    rows = weight.reshape(groups, outputs // groups, -1).double()
    counts = [count * (number + 1) // groups - count * number // groups for number in range(groups)]
    pruned = [_rows(*one) for one in zip(rows, moment, counts, strict=True)]
    return torch.stack(pruned).reshape(weight.shape).to(weight.dtype)


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


def _rows(weight: torch.Tensor, moment: torch.Tensor, count: int) -> torch.Tensor:
    weight, columns = weight.clone(), weight.shape[1]
    inverse = _inverse_factor(moment)
    gone = 0
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        cost = (weight[:, start:end] / inverse.diagonal()[start:end]).square()
        mask = lowest(cost, max(count * end // columns - gone, 0))
        gone += int(mask.sum())
        errors = torch.zeros_like(weight[:, start:end])
        for column in range(start, end):
            own = mask[:, column - start]
            errors[:, column - start] = weight[:, column] * own / inverse[column, column]
            weight[:, column:end] -= torch.outer(errors[:, column - start], inverse[column, column:end])
            weight[own, column] = 0.0
        weight[:, end:] -= errors @ inverse[start:end, end:]
    return weight


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
