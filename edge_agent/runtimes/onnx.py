"""ONNX Runtime on its own CPU kernels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import onnxruntime

from edge_agent.errors import ModelInvokeError, ModelLoadError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype
from edge_agent.runtimes.base import FileTensor
from edge_agent.runtimes.onnx_external import OutsideDataError, require_self_contained

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_agent.runtimes.base import Array

PROVIDERS = ["CPUExecutionProvider"]
ERRORS_ONLY = 3
_STARVED = re.compile(r"bad_alloc|bad allocation|[Ff]ailed to allocate memory")
_TYPES = {
    "tensor(bool)": Datatype.BOOL,
    "tensor(uint8)": Datatype.UINT8,
    "tensor(uint16)": Datatype.UINT16,
    "tensor(uint32)": Datatype.UINT32,
    "tensor(uint64)": Datatype.UINT64,
    "tensor(int8)": Datatype.INT8,
    "tensor(int16)": Datatype.INT16,
    "tensor(int32)": Datatype.INT32,
    "tensor(int64)": Datatype.INT64,
    "tensor(float16)": Datatype.FP16,
    "tensor(float)": Datatype.FP32,
    "tensor(double)": Datatype.FP64,
}


def open_installed(_name: RuntimeName, version: str) -> OnnxRuntime:
    """The runtime of the installed package."""
    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    return OnnxRuntime(version)


class OnnxRuntime:
    """ONNX Runtime, one session for each file."""

    name = RuntimeName.ONNX

    def __init__(self, version: str) -> None:
        self.version = version

    def load(self, path: Path, *, threads: int, delegate: Delegate) -> OnnxModel:
        """Load an `.onnx` file.

        Raises:
            ModelLoadError: not a model, one with data outside of the file, or one that this runtime cannot prepare.
        """
        if delegate is not Delegate.NONE:
            raise ModelLoadError(f"ONNX Runtime {self.version} has no delegate {delegate} here: use {Delegate.NONE}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = ERRORS_ONLY
        try:
            require_self_contained(path)
            session = onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
            return OnnxModel(session)
        except OutsideDataError as exc:
            raise ModelLoadError(f"{path.name} is refused: {exc}") from exc
        except Exception as exc:  # its errors have no common root
            raise ModelLoadError(f"ONNX Runtime {self.version} can't load {path.name}: {_reason(exc)}") from exc


class OnnxModel:
    """A loaded `.onnx` file; all its dimensions are constant."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401  the package ships no types
        self._session = session
        self._inputs = tuple(_describe(tensor) for tensor in session.get_inputs())
        self._outputs = tuple(_describe(tensor) for tensor in session.get_outputs())
        self._input_names = [tensor.name for tensor in self._inputs]
        self._output_names = [tensor.name for tensor in self._outputs]

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
        feeds = dict(zip(self._input_names, arrays, strict=True))
        try:
            results: list[Array] = self._session.run(self._output_names, feeds)
        except Exception as exc:  # its errors have no common root
            raise ModelInvokeError(f"ONNX Runtime failed: {_reason(exc)}") from exc
        return results

    def delegate_partitions(self) -> int:
        """None is delegated: all operators run on the package's own kernels."""
        return 0


def _describe(tensor: Any) -> FileTensor:  # noqa: ANN401
    if tensor.type not in _TYPES:
        raise ModelLoadError(f"its tensor {tensor.name} is a {tensor.type}, which no app can be shown")
    if not all(isinstance(length, int) for length in tensor.shape):
        raise ModelLoadError(f"its tensor {tensor.name} has a free dimension, {tensor.shape}: export a fixed batch")
    return FileTensor(tensor.name, _TYPES[tensor.type], tuple(tensor.shape))


def _reason(exc: Exception) -> str:
    """The exception's own words.

    Raises:
        MemoryError: they say that there was not enough.
    """
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(exc).split()))[:300]
    if isinstance(exc, MemoryError) or _STARVED.search(text):
        raise MemoryError(text) from exc
    return text or "no reason given"
