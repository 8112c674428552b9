"""The interpreter that LiteRT and its predecessor tflite-runtime share: two packages, one Python interface."""

from __future__ import annotations

import ctypes
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.errors import ModelInvokeError, ModelLoadError, ModelLoadUnexplainedError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype
from edge_agent.runtimes.base import FileTensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from edge_agent.runtimes.base import Array

DELEGATE_OPERATOR = "DELEGATE"
DELEGATE_ENTRY = "tflite_plugin_create_delegate"  # of external_delegate_interface.h
# shared libraries of the boards' vendors, found as the loader finds them; NXP's Linux for the i.MX 93 brings this one
LIBRARIES = {Delegate.ETHOS_U: "libethosu_delegate.so"}
MODULES = {RuntimeName.LITERT: "ai_edge_litert.interpreter", RuntimeName.TFLITE: "tflite_runtime.interpreter"}


def open_installed(name: RuntimeName, version: str) -> InterpreterRuntime:
    """Import the interpreter.

    Raises:
        ImportError: its native part does not load.
    """
    return InterpreterRuntime(name, version, importlib.import_module(MODULES[name]))


class InterpreterRuntime:
    """A runtime whose package offers `Interpreter` and `OpResolverType`."""

    def __init__(self, name: RuntimeName, version: str, module: ModuleType) -> None:
        self._name, self._version, self._module = name, version, module

    @property
    def name(self) -> RuntimeName:
        """The wire name."""
        return self._name

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return self._version

    def load(self, path: Path, *, threads: int, delegate: Delegate) -> InterpretedModel:
        """Load a `.tflite` file.

        Raises:
            ModelLoadError: not a model, or one that this runtime and delegate cannot prepare.
        """
        resolver = self._module.OpResolverType
        delegates = [self._open_library(LIBRARIES[delegate], path)] if delegate in LIBRARIES else None
        try:
            interpreter = self._module.Interpreter(
                model_path=str(path),
                num_threads=threads,
                experimental_delegates=delegates,
                experimental_op_resolver_type=(
                    resolver.AUTO if delegate is Delegate.XNNPACK else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                ),
            )
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as exc:
            reason = " ".join(str(exc).split())
            kind = ModelLoadError if reason else ModelLoadUnexplainedError
            raise kind(
                f"{self._name} {self._version} ({delegate}) can't load {path.name}: {reason[:300] or 'no reason given'}"
            ) from exc
        return InterpretedModel(interpreter)

    def _open_library(self, library: str, path: Path) -> Any:  # noqa: ANN401  neither package ships types
        try:
            # opened by hand first: a Delegate whose library is missing or another one leaves a finalizer that raises
            getattr(ctypes.PyDLL(library), DELEGATE_ENTRY)
            return self._module.load_delegate(library)
        except (OSError, AttributeError, ValueError) as exc:
            raise ModelLoadError(
                f"{path.name} is for a processor that is reached through {library}, which does not load here: {exc}"
            ) from exc


class InterpretedModel:
    """A loaded `.tflite` file."""

    def __init__(self, interpreter: Any) -> None:  # noqa: ANN401  neither package ships types
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self._input_ids = [int(tensor["index"]) for tensor in inputs]
        self._output_ids = [int(tensor["index"]) for tensor in outputs]
        self._inputs = tuple(_describe(tensor) for tensor in inputs)
        self._outputs = tuple(_describe(tensor) for tensor in outputs)

    @property
    def inputs(self) -> tuple[FileTensor, ...]:
        """The file's inputs, in the order of `invoke`."""
        return self._inputs

    @property
    def outputs(self) -> tuple[FileTensor, ...]:
        """The file's outputs, in the order of `invoke`."""
        return self._outputs

    def invoke(self, arrays: Sequence[Array]) -> list[Array]:
        """Run once; see `LoadedModel.invoke`."""
        interpreter = self._interpreter
        try:
            for index, array in zip(self._input_ids, arrays, strict=True):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._output_ids]
        except (ValueError, RuntimeError) as exc:
            raise ModelInvokeError(f"the interpreter failed: {' '.join(str(exc).split())[:300]}") from exc

    def delegate_partitions(self) -> int | None:
        """Into how many pieces the delegate cut the graph; 0: none, None: this interpreter does not tell."""
        try:
            operators = self._interpreter._get_ops_details()  # noqa: SLF001  the only door to the execution plan
        except (AttributeError, ValueError, RuntimeError):
            return None
        return sum(1 for operator in operators if operator["op_name"] == DELEGATE_OPERATOR)


def _describe(details: dict[str, Any]) -> FileTensor:
    scales = details["quantization_parameters"]["scales"]
    zero_points = details["quantization_parameters"]["zero_points"]
    quantized = len(scales) == 1
    return FileTensor(
        name=str(details["name"]),
        datatype=Datatype.from_numpy(np.dtype(details["dtype"]).name),
        shape=tuple(int(length) for length in details["shape"]),
        scale=float(scales[0]) if quantized else None,
        zero_point=int(zero_points[0]) if quantized else 0,
    )
