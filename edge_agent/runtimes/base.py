"""What every runtime adapter offers. Arrays here are the file's own: quantized where the file is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.protocol.profile import Delegate, RuntimeName
    from edge_agent.protocol.signature import Datatype

    Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FileTensor:
    """One input or output of a model file."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    scale: float | None = None  # per-tensor affine quantization; None when the tensor is not quantized
    zero_point: int = 0


class LoadedModel(Protocol):
    """A model file in memory, ready to be invoked. Not thread-safe: one caller at a time."""

    @property
    def inputs(self) -> tuple[FileTensor, ...]:
        """The file's inputs, in the order of `invoke`."""
        ...

    @property
    def outputs(self) -> tuple[FileTensor, ...]:
        """The file's outputs, in the order of `invoke`."""
        ...

    def invoke(self, arrays: Sequence[Array]) -> list[Array]:
        """Run once.

        Args:
            arrays: one for each input, in order, of exactly its shape and datatype.

        Returns:
            One array for each output, in order; copies that the next call does not overwrite.

        Raises:
            edge_agent.errors.ModelInvokeError: the runtime failed.
        """
        ...

    def delegate_partitions(self) -> int | None:
        """Into how many pieces a delegate cut the graph; 0: there is none, None: the runtime does not tell."""
        ...


class Runtime(Protocol):
    """An inference runtime that is installed in this Python."""

    @property
    def name(self) -> RuntimeName:
        """The wire name."""
        ...

    @property
    def version(self) -> str:
        """The version of the installed package."""
        ...

    def load(self, path: Path, *, threads: int, delegate: Delegate) -> LoadedModel:
        """Load a model file.

        Raises:
            edge_agent.errors.ModelLoadError: the runtime refuses the file, with its own words.
        """
        ...
