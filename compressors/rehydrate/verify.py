"""Hold a rehydrated network against the exported program: the same answers, alone and in a batch, or a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compressors.errors import RehydrationError, SignatureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

TOLERANCE = 1e-5  # of the largest output, or absolute where that is below 1


def check_same(
    exported: nn.Module, network: nn.Module, samples: Sequence[torch.Tensor], *, takes_batches: bool, how: str
) -> None:
    """Whether both answer alike.

    Args:
        exported: what was uploaded; whatever it raises on these samples rises.
        network: its rehydrated form.
        samples: one tensor for each input, with the same number of samples.
        takes_batches: whether `exported` does; else it is given one sample at a time.
        how: the line that exports with a free batch.

    Raises:
        RehydrationError: an answer differs.
        SignatureError: a single sample's does not, but in a batch: its batch can't be made free.
    """
    with torch.no_grad():
        alone = [tuple(tensor[row : row + 1] for tensor in samples) for row in range(len(samples[0]))]
        if takes_batches:
            expected = tensors_of(exported(*samples))
        else:
            each = [tensors_of(exported(*sample)) for sample in alone]
            expected = [torch.cat(parts) for parts in zip(*each, strict=True)]
            _compare(_answer(network, alone[0]), each[0])
        try:
            _compare(_answer(network, samples), expected)
        except RehydrationError as exc:
            if takes_batches:
                raise
            raise SignatureError(
                "the model was exported for one sample at a time, and its batch can't be made free: "
                f"export it again, {how}"
            ) from exc


def _answer(network: nn.Module, samples: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    try:
        return tensors_of(network(*samples))
    except (RuntimeError, IndexError, ValueError, TypeError) as exc:  # what operators raise for shapes
        said = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise RehydrationError(f"the rebuilt network does not run where the exported program does: {said}") from exc


def _compare(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise RehydrationError(
                f"output {number} of the rebuilt network is {ours.dtype} {tuple(ours.shape)}, "
                f"that of the exported program {theirs.dtype} {tuple(theirs.shape)}"
            )
        mine, yours = ours.double(), theirs.double()  # truth values have neither size nor distance
        scale = max(1.0, float(yours.abs().nan_to_num(0.0, 0.0, 0.0).max())) if yours.numel() else 1.0
        if not torch.allclose(mine, yours, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True):
            gap = float((mine - yours).abs().nan_to_num(float("inf")).max())
            raise RehydrationError(
                f"output {number} of the rebuilt network differs from the exported program by {gap:g}: "
                "does the model draw random numbers? Export it in evaluation mode and without them"
            )


def tensors_of(outputs: object) -> list[torch.Tensor]:
    """The tensors of a module's result, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        return [tensor for value in outputs.values() for tensor in tensors_of(value)]
    if isinstance(outputs, tuple | list):
        return [tensor for value in outputs for tensor in tensors_of(value)]
    raise SignatureError(f"the model gives a {type(outputs).__name__}; only tensors are supported")
