"""Losses of single rows, for each task: against the label, and against a teacher.

Source of the soft targets: Hinton et al. 2015, arXiv:1503.02531; of the pairwise loss: Rendle et al. 2009,
arXiv:1205.2618.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    import torch


def classification(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row; a single output says yes or no. `target`: int64, what lies below 0 gives any value."""
    target = target.clamp_min(0)
    if logits.shape[1] > 1:
        return functional.cross_entropy(logits, target, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype), reduction="none")


def regression(outputs: torch.Tensor, target: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Squared error of each row, in units of the targets' variance: 1.0 is what their mean would get."""
    return ((outputs - target) ** 2 / variance).mean(dim=1)


def relevance(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each row: whether it is relevant at all."""
    return functional.binary_cross_entropy_with_logits(logits, (target > 0).to(logits.dtype), reduction="none")


def order(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """How far each pair is from being in the right order (BPR)."""
    return functional.softplus(worse - better)


def imitation(logits: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far each row's softened answer is from the teacher's: Kullback-Leibler divergence times temperature squared.

    The square keeps the gradients' size whatever the temperature is.
    """
    ours, theirs = logits / temperature, teacher / temperature
    if logits.shape[1] == 1:  # yes or no: two classes, the second at zero
        ours, theirs = (functional.pad(one, (0, 1)) for one in (ours, theirs))
    divergence = functional.kl_div(
        functional.log_softmax(ours, dim=1), functional.log_softmax(theirs, dim=1), reduction="none", log_target=True
    )
    return divergence.sum(dim=1) * temperature**2
