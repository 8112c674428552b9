"""An exported program in memory, and the signature that apps see of it."""

from __future__ import annotations

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compressors.errors import ArchiveError, ModelRunError, SignatureError
from compressors.inputs.archive import clean_copy
from compressors.rehydrate import rehydrate
from compressors.rehydrate.verify import check_same, tensors_of
from compressors.running import operators_may_refuse, refuse_without_memory
from edge_agent.protocol.signature import FREE, Datatype, ModelSignature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

EXPORT_WITH_FREE_BATCH = (
    "torch.export.export(model, (torch.zeros(2, ...),), dynamic_shapes={'%s': {0: torch.export.Dim('batch')}})"
)
INDEPENDENCE_SAMPLES = 4
VERIFIED_SAMPLES = 3  # on which the network is held against the program
RUN_IT_YOURSELF = "run the exported program on these data, mend what fails there, and export it again"


@dataclass(frozen=True)
class Names:
    """What apps call the inputs and outputs, in order."""

    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class FloatModel:
    """The float network of a ModelVersion, or what a step made of it."""

    module: torch.nn.Module  # takes tensors by position, in the order of the signature, any number of samples
    signature: ModelSignature
    parameters: int
    exported: torch.nn.Module | None = None  # the program, where no random input could show that both answer alike
    litert_file: bytes | None = None  # as it was pushed; then the module runs it, and has no layers

    def examples(self) -> tuple[torch.Tensor, ...]:
        """Zeros for each input, one sample, as converters want to see them."""
        return tuple(
            torch.zeros(*(1 if length == FREE else length for length in spec.shape), dtype=_torch_type(spec.datatype))
            for spec in self.signature.inputs
        )

    def run(self, inputs: Mapping[str, NDArray[np.generic]], *, batch: int = 64) -> dict[str, NDArray[np.generic]]:
        """The float model's outputs for all samples, by output name.

        Raises:
            ModelRunError: one of its operators refuses these samples.
            MemoryError: there is not enough for one batch.
        """
        names = [spec.name for spec in self.signature.inputs]
        rows = len(inputs[names[0]])
        pieces = []
        with torch.no_grad(), operators_may_refuse("the model fails on the data", RUN_IT_YOURSELF):
            for start in range(0, rows, batch):
                tensors = [torch.from_numpy(inputs[name][start : start + batch]) for name in names]
                pieces.append(tensors_of(self.module(*tensors)))
        columns = [torch.cat(column).numpy() for column in zip(*pieces, strict=True)]
        return {spec.name: column for spec, column in zip(self.signature.outputs, columns, strict=True)}

    def check_samples_are_independent(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Whether a sample's outputs are the same alone and among others: files are converted at batch 1.

        Raises:
            SignatureError: they are not.
            RehydrationError: the network answers otherwise than the program that it was made of.
        """
        few = {name: array[:INDEPENDENCE_SAMPLES] for name, array in inputs.items()}
        if self.exported is not None:
            rows = [torch.from_numpy(few[spec.name]) for spec in self.signature.inputs]
            check_same(self.exported, self.module, rows, takes_batches=False, how=_export_line(self.signature))
        together, alone = self.run(few), self.run(few, batch=1)
        for name, expected in alone.items():
            if together[name].shape != expected.shape or not np.allclose(together[name], expected, 1e-2, 1e-3):
                raise SignatureError(
                    f"{name} of one sample depends on the other samples of its batch: make the model treat each "
                    "sample for itself (was it exported without model.eval()?)"
                )


def load(path: Path) -> FloatModel:
    """Load a `.pt2` behind the gate of `archive`, as a network of ordinary layers.

    Raises:
        ArchiveError: it may not be loaded, or torch can't read it.
        SignatureError: its inputs or outputs are not tensors that an app can be shown, or its batch can't be made free.
        WeightError: a weight is NaN or infinite.
        RehydrationError: the network answers otherwise than the program.
    """
    logging.getLogger("torch.export").setLevel(logging.ERROR)  # it prints the traceback that we turn into a sentence
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "model.pt2"
        clean_copy(path, clean)
        try:
            program = torch.export.load(clean)
        except Exception as exc:  # torch raises whatever its parser happens to hit
            refuse_without_memory(exc)
            raise ArchiveError(
                f"torch {torch.__version__} can't read this archive; export it again with this version or an older one"
            ) from exc
    return from_exported(program)


def from_exported(
    program: Any,  # noqa: ANN401  torch carries no types
    names: Names | None = None,
    *,
    how: str = EXPORT_WITH_FREE_BATCH,
    tidy: Callable[[Any], Any] | None = None,
) -> FloatModel:
    """The network of an exported program, as layers.

    Args:
        program: from `torch.export`.
        names: of its inputs and outputs, where the source has better ones than the program.
        how: to export the source with a free batch, for a sentence; `%s` becomes the name of its input.
        tidy: what is done to the program's module before its layers are looked for; it must answer as before.

    Raises:
        SignatureError: its inputs or outputs are not tensors that an app can be shown.
        WeightError: a weight is NaN or infinite.
        RehydrationError: the layers do not answer as the program does.
    """
    signature, free = _signature(program, names)
    exported = program.module(check_guards=False)
    inputs = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    network = rehydrate(exported if tidy is None else tidy(program.module(check_guards=False)), inputs)
    # by storage: what two layers share, or one layer names twice, is there once
    parameters = sum({one.data_ptr(): one.numel() for one in program.parameters()}.values())
    samples = _samples(exported, signature)
    if samples is None:
        return FloatModel(network, signature, parameters, exported)
    check_same(exported, network, samples, takes_batches=free, how=how % signature.inputs[0].name)
    return FloatModel(network, signature, parameters)


def _export_line(signature: ModelSignature) -> str:
    return EXPORT_WITH_FREE_BATCH % signature.inputs[0].name


def save(network: FloatModel, path: Path) -> None:
    """Write a network as a `.pt2` with a free batch, as `load` reads it.

    Raises:
        Exception: whatever `torch.export` raises for what it can't export.
    """
    examples = tuple(example.repeat(2, *[1] * (example.dim() - 1)) for example in network.examples())
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in examples)
    program = torch.export.export(network.module.eval(), examples, dynamic_shapes=free)
    with path.open("wb") as file:
        torch.export.save(program, file)


def _samples(exported: torch.nn.Module, signature: ModelSignature) -> list[torch.Tensor] | None:
    """Random inputs that the program takes: numbers, or zeros and ones, which most tables have; None: neither."""
    for numbers in (True, False):
        samples = _drawn(signature, numbers=numbers)
        try:
            with torch.no_grad(), operators_may_refuse("the model fails on random inputs", RUN_IT_YOURSELF):
                for row in range(VERIFIED_SAMPLES):
                    exported(*(tensor[row : row + 1] for tensor in samples))
        except ModelRunError:
            continue
        return samples
    return None


def _drawn(signature: ModelSignature, *, numbers: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for spec in signature.inputs:
        shape, kind = (VERIFIED_SAMPLES, *spec.sample_shape), _torch_type(spec.datatype)
        is_number = numbers and kind.is_floating_point
        drawn = (
            torch.randn(shape, generator=generator) if is_number else torch.randint(0, 2, shape, generator=generator)
        )
        found.append(drawn.to(kind))
    return found


def check_finite(outputs: Mapping[str, NDArray[np.generic]], rows: NDArray[np.int64]) -> None:
    """Whether every output is a number: infinity and NaN have no metric, and no place in a result.

    Args:
        outputs: of some rows, by output name.
        rows: where each of them stands in the data.

    Raises:
        ModelRunError: one is not.
    """
    for name, values in outputs.items():
        wrong = ~np.isfinite(values)
        if wrong.any():
            row = int(rows[np.argwhere(wrong)[0][0]])
            raise ModelRunError(
                f"{name} of the model is NaN or infinite for row {row} of the data: mend the model (a division by "
                "zero, the logarithm of zero, an overflow?) or leave such rows out"
            )


def _signature(program: Any, names: Names | None) -> tuple[ModelSignature, bool]:  # noqa: ANN401  torch carries no types
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    input_names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    shown = names.inputs if names else _input_names(program, input_names)
    shown_outputs = names.outputs if names else _output_names(program)
    free = True
    inputs = []
    for name, app_name in zip(input_names, shown, strict=True):
        shape, batch_is_free = _shape(values[name], app_name)
        free = free and batch_is_free
        inputs.append(TensorSpec(name=app_name, datatype=_datatype(values[name], app_name), shape=shape))
    outputs = []
    for name, app_name in zip(program.graph_signature.user_outputs, shown_outputs, strict=True):
        value = values.get(name)
        if not isinstance(value, torch.Tensor) or value.dim() == 0:
            raise SignatureError(f"the output {app_name} is not a tensor with a batch dimension; return one per sample")
        shape = (FREE, *_fixed(value.shape[1:], app_name))
        outputs.append(TensorSpec(name=app_name, datatype=_datatype(value, app_name), shape=shape))
    return ModelSignature(inputs=tuple(inputs), outputs=tuple(outputs)), free


def _shape(value: object, name: str) -> tuple[tuple[int, ...], bool]:
    """The shape that apps see, and whether the program itself takes any batch."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        raise SignatureError(f"the input {name} is not a tensor with a batch dimension; give the model tensors only")
    batch = value.shape[0]
    if isinstance(batch, int) and batch != 1:
        line = EXPORT_WITH_FREE_BATCH % name
        raise SignatureError(f"the input {name} has the constant batch {batch}: export it with a free one, {line}")
    return (FREE, *_fixed(value.shape[1:], name)), not isinstance(batch, int)


def _fixed(lengths: Any, name: str) -> tuple[int, ...]:  # noqa: ANN401  ints or torch.SymInt
    if not all(isinstance(length, int) for length in lengths):
        raise SignatureError(f"{name} has a free dimension besides the batch: export it with constant lengths")
    if 0 in lengths:
        raise SignatureError(f"{name} has samples of the shape {tuple(lengths)}, which hold nothing: leave it out")
    return tuple(lengths)


def _input_names(program: Any, input_names: list[str]) -> list[str]:  # noqa: ANN401
    signature = program.module_call_graph[0].signature
    forward_names = list(getattr(signature, "forward_arg_names", None) or [])
    return forward_names if len(forward_names) == len(input_names) else input_names


def _output_names(program: Any) -> list[str]:  # noqa: ANN401
    spec = program.call_spec.out_spec
    count = spec.num_leaves
    if spec.type is dict and len(spec.context) == count:
        names = [str(key) for key in spec.context]
        if all(map(is_shown_name, names)):
            return names
    return [f"output_{index}" for index in range(count)]


def is_shown_name(name: str) -> bool:
    """Whether an input or output may have this name before an app."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,127}", name) is not None


def _datatype(value: torch.Tensor, name: str) -> Datatype:
    try:
        return Datatype.from_numpy(str(value.dtype).removeprefix("torch."))
    except ValueError as exc:
        raise SignatureError(
            f"{name} has the type {value.dtype}, which apps can't be shown: use float32 or int64"
        ) from exc


def _torch_type(datatype: Datatype) -> torch.dtype:
    found: torch.dtype = getattr(torch, datatype.numpy_name)
    return found
