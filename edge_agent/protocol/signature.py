"""The signature that apps see: it belongs to the ModelVersion and outlives every variant.

A variant may be int8 inside; the runner converts at the edge (see `TensorBinding` in the manifest).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from edge_agent.protocol.base import Wire

FREE = -1  # a dimension of any length; only the first (batch) dimension may be free


class Datatype(StrEnum):
    """Tensor element types by their names in the Open Inference Protocol."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"

    @property
    def numpy_name(self) -> str:
        """The numpy dtype of the same elements, little-endian on the wire."""
        return _NUMPY_NAMES[self]

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return 1 if self is Datatype.BOOL else int("".join(c for c in self.value if c.isdigit())) // 8

    @classmethod
    def from_numpy(cls, name: str) -> Self:
        """The datatype of a numpy dtype name.

        Raises:
            ValueError: a type that the protocol does not have.
        """
        for datatype, numpy_name in _NUMPY_NAMES.items():
            if numpy_name == name:
                return cls(datatype)
        raise ValueError(f"tensor type {name} has no counterpart in the Open Inference Protocol")


_NUMPY_NAMES = {
    Datatype.BOOL: "bool",
    Datatype.UINT8: "uint8",
    Datatype.UINT16: "uint16",
    Datatype.UINT32: "uint32",
    Datatype.UINT64: "uint64",
    Datatype.INT8: "int8",
    Datatype.INT16: "int16",
    Datatype.INT32: "int32",
    Datatype.INT64: "int64",
    Datatype.FP16: "float16",
    Datatype.FP32: "float32",
    Datatype.FP64: "float64",
}

Dimension = Annotated[int, Field(ge=FREE, le=1 << 31)]


class TensorSpec(Wire):
    """One input or output as apps see it: name, element type, shape (-1 = any batch length)."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_.:/-]*$")]
    datatype: Datatype = Datatype.FP32
    shape: Annotated[tuple[Dimension, ...], Field(max_length=8)]

    @model_validator(mode="after")
    def _only_batch_is_free(self) -> Self:
        if any(length == FREE for length in self.shape[1:]):
            raise ValueError(f"tensor {self.name}: only the first dimension may be free (-1), got {list(self.shape)}")
        if 0 in self.shape:
            raise ValueError(f"tensor {self.name}: a dimension of length 0 holds no data, got {list(self.shape)}")
        return self

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample: everything after the batch dimension."""
        return self.shape[1:]

    @property
    def sample_elements(self) -> int:
        """Elements of one sample."""
        return math.prod(self.sample_shape)

    @property
    def free_batch(self) -> bool:
        """Whether an app may send any number of samples at once."""
        return bool(self.shape) and self.shape[0] == FREE


class ModelSignature(Wire):
    """The inputs and outputs of a model, in order."""

    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise ValueError(f"two {kind}s have the same name: {names}")
        return self
