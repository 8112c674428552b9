"""Export an `nn.Module` on the user's own machine: only here does a client meet torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from server.client.errors import RegistryClientError

if TYPE_CHECKING:
    from pathlib import Path


def export_module(module: Any, example_inputs: tuple[Any, ...], path: Path) -> None:  # noqa: ANN401  torch is not imported here
    """Save a module as a torch.export archive whose first dimension of every input takes any batch.

    Args:
        module: an `nn.Module`; put into evaluation mode, and back afterwards.
        example_inputs: tensors with at least one sample each.
        path: where the `.pt2` goes.

    Raises:
        RegistryClientError: torch is not installed, or the module can't be exported.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError as exc:
        sentence = "Exporting a module needs torch on this machine: `pip install torch`, or push a .pt2 file."
        raise RegistryClientError("torch_missing", sentence) from exc
    if not example_inputs or any(getattr(tensor, "ndim", 0) < 1 for tensor in example_inputs):
        raise RegistryClientError("invalid", "example_inputs must be tensors whose first dimension is the batch.")
    # torch specialises a dimension of 0 or 1: two samples keep the batch free
    inputs = tuple(torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor for tensor in example_inputs)
    batch = torch.export.Dim("batch", min=1)
    was_training = module.training
    module.eval()
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
        torch.export.save(program, str(path))
    except Exception as exc:  # torch raises anything here, from its compiler's own errors to ValueError
        first = str(exc).strip().splitlines()[0][:200] if str(exc).strip() else type(exc).__name__
        raise RegistryClientError("export_failed", f"torch can't export this module: {first}") from exc
    finally:
        module.train(was_training)
