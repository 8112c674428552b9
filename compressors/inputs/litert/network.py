"""A LiteRT file as a float network: a module that runs the file. It answers, and teaches, but has no layers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compressors.errors import SignatureError
from compressors.inputs.litert import gate
from compressors.inputs.program import FloatModel, is_shown_name
from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import FREE, Datatype, ModelSignature, TensorSpec
from edge_agent.runtimes.convert import BoundModel, bind
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.runtimes.base import FileTensor, LoadedModel


class FileModule(torch.nn.Module):
    """Runs a LiteRT file, in this process and without a delegate."""

    def __init__(self, loaded: LoadedModel, signature: ModelSignature) -> None:
        """Bind the file to its signature.

        Raises:
            BindingError: its inputs and outputs do not share one batch.
        """
        super().__init__()
        inputs, outputs = bind(signature.inputs, loaded.inputs), bind(signature.outputs, loaded.outputs)
        self._bound = BoundModel(loaded, signature, inputs, outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All samples of a batch; the file gets as many at once as it takes."""
        names = [spec.name for spec in self._bound.signature.inputs]
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
        results = self._bound.run(arrays)
        return tuple(torch.from_numpy(results[spec.name]) for spec in self._bound.signature.outputs)


def load(path: Path) -> FloatModel:
    """Load a `.tflite` behind its gate.

    Raises:
        ArchiveError: it may not be loaded, or is damaged.
        ConversionError: it holds custom operators, or is no float model.
        SignatureError: its inputs or outputs are not tensors that an app can be shown.
        WeightError: a weight is NaN or infinite.
    """
    return from_file(gate.read_file(path))


def from_file(file: bytes) -> FloatModel:
    """The network that a checked LiteRT file is.

    Raises:
        SignatureError: its inputs or outputs are not tensors that an app can be shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(file)
        try:
            loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.NONE)
            signature = _signature(file, loaded)
            module = FileModule(loaded, signature)
        except EdgeAgentError as exc:
            raise SignatureError(f"the .tflite file can't be run: {exc}") from exc
    return FloatModel(module.eval(), signature, gate.count_parameters(file), litert_file=file)


def _signature(file: bytes, loaded: LoadedModel) -> ModelSignature:
    ends = gate.read_ends(file)
    return ModelSignature(
        inputs=tuple(_specs("input", loaded.inputs, ends.inputs)),
        outputs=tuple(_specs("output", loaded.outputs, ends.outputs)),
    )


def _specs(kind: str, tensors: Sequence[FileTensor], ends: Sequence[gate.End]) -> list[TensorSpec]:
    names = [end.name for end in ends]
    if len(set(names)) != len(names) or not all(map(is_shown_name, names)):
        names = [f"{kind}_{number}" for number in range(len(ends))]
    specs = []
    for name, tensor, end in zip(names, tensors, ends, strict=True):
        if not tensor.shape:
            raise SignatureError(f"the {kind} {name} has no batch dimension: give it one, of length 1 or free")
        if any(length < 1 for length in end.shape[1:]):
            raise SignatureError(
                f"the {kind} {name} has a free dimension besides the batch: convert the model with constant lengths"
            )
        specs.append(TensorSpec(name=name, datatype=_datatype(tensor, name), shape=(FREE, *tensor.shape[1:])))
    return specs


def _datatype(tensor: FileTensor, name: str) -> Datatype:
    """The type that apps see: whole numbers are 64 bits wide, as torch and numpy make them."""
    known: dict[Any, Datatype] = {Datatype.INT32: Datatype.INT64, Datatype.INT64: Datatype.INT64}
    known |= {one: one for one in (Datatype.FP32, Datatype.BOOL)}
    if tensor.datatype not in known:
        raise SignatureError(f"{name} has the type {tensor.datatype}: convert the model with float32 or int32 there")
    return known[tensor.datatype]
