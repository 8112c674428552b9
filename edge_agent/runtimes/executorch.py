"""ExecuTorch: programs that were lowered to XNNPACK when they were made.

The one module of the agent that imports torch: the runtime takes and gives torch tensors. It opens the package's native
module itself, because `executorch.runtime` imports the exporter too (measured with 1.5.1: 3.7 s and 330 MB more).
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any

import torch

from edge_agent.errors import ModelInvokeError, ModelLoadError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype
from edge_agent.runtimes.base import FileTensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.runtimes.base import Array

NATIVE_MODULE = "executorch.extension.pybindings._C"
METHOD = "forward"
# executorch/runtime/core/portable_type/scalar_type.h
_TYPES = {
    0: Datatype.UINT8,
    1: Datatype.INT8,
    2: Datatype.INT16,
    3: Datatype.INT32,
    4: Datatype.INT64,
    5: Datatype.FP16,
    6: Datatype.FP32,
    7: Datatype.FP64,
    11: Datatype.BOOL,
}
# executorch/runtime/core/error.h; the exception says no more than the number
_CODES = {
    0x10: "the inputs do not fit",
    0x12: "the inputs or the file do not fit",
    0x14: "an operator of it is not in this runtime",
    0x20: "a part of it is not in this runtime",
    0x21: "there is not enough memory",
    0x22: "the file can't be read",
    0x23: "it is no ExecuTorch program, or damaged",
    0x30: "it was made for a backend that this runtime does not have",
    0x31: "there is not enough memory",
}
_OUT_OF_MEMORY = {0x21, 0x31}


def open_installed(_name: RuntimeName, version: str) -> ExecuTorchRuntime:
    """Import the native module.

    Raises:
        ImportError: it does not load.
    """
    return ExecuTorchRuntime(version, importlib.import_module(NATIVE_MODULE))


class ExecuTorchRuntime:
    """ExecuTorch; its threads belong to the process, so the first model decides how many there are."""

    name = RuntimeName.EXECUTORCH
    _threads: int | None = None  # of the process: to change them under a loaded program ends the process

    def __init__(self, version: str, native: Any) -> None:  # noqa: ANN401  a module without types
        self.version, self._native = version, native

    def load(self, path: Path, *, threads: int, delegate: Delegate) -> ExecuTorchModel:
        """Load a `.pte` file.

        Raises:
            ModelLoadError: not a program, or one that needs what this runtime does not have.
        """
        if delegate is not Delegate.XNNPACK:
            raise ModelLoadError(f"an ExecuTorch program is delegated when it is made: use {Delegate.XNNPACK}")
        if ExecuTorchRuntime._threads is None:
            ExecuTorchRuntime._threads = threads
            self._native._unsafe_reset_threadpool(threads)  # noqa: SLF001  the only door; safe before any load
        try:
            program = self._native._load_program(  # noqa: SLF001  what executorch.runtime itself calls
                str(path), program_verification=self._native.Verification.InternalConsistency
            )
            return ExecuTorchModel(program, program.load_method(METHOD))
        except (RuntimeError, ValueError, IndexError) as exc:
            reason = _reason(exc)
            raise ModelLoadError(f"ExecuTorch {self.version} can't load {path.name}: {reason}") from exc


class ExecuTorchModel:
    """A loaded `.pte` file."""

    def __init__(self, program: Any, method: Any) -> None:  # noqa: ANN401
        self._program, self._method = program, method
        meta = method.method_meta()
        self._inputs = tuple(_describe(f"input_{i}", meta.input_tensor_meta(i)) for i in range(meta.num_inputs()))
        self._outputs = tuple(_describe(f"output_{i}", meta.output_tensor_meta(i)) for i in range(meta.num_outputs()))

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
        try:
            # what came over a socket is read-only, and torch has no such tensors
            tensors = [torch.from_numpy(a if a.flags.writeable else a.copy()) for a in arrays]
            results = self._method(tensors)  # copies: the next call does not overwrite them
            return [result.numpy() for result in results]
        except (RuntimeError, ValueError, TypeError, AttributeError) as exc:
            raise ModelInvokeError(f"ExecuTorch failed: {_reason(exc)}") from exc

    def delegate_partitions(self) -> None:
        """The runtime does not tell; the file does, to whoever made it."""
        return


def _describe(name: str, info: Any) -> FileTensor:  # noqa: ANN401
    kind = _TYPES.get(info.dtype())
    if kind is None:
        raise ModelLoadError(f"its tensor {name} has the scalar type {info.dtype()}, which no app can be shown")
    return FileTensor(name, kind, tuple(info.sizes()))


def _reason(exc: Exception) -> str:
    """The exception's words, and what its number means.

    Raises:
        MemoryError: it means that there was not enough.
    """
    text = " ".join(str(exc).split())[:300]
    number = re.search(r"error:? ?0x:?(?P<code>[0-9a-fA-F]+)", text)
    code = int(number["code"], 16) if number else 0
    if code in _OUT_OF_MEMORY or "can't allocate memory" in text:
        raise MemoryError(text) from exc
    return f"{_CODES[code]} ({text})" if code in _CODES else text
