"""The manifest of a Variant: what travels, what it becomes on the device, and how to prove it there.

The travelling object is one zstd frame of the *payload*, whose words may have been regrouped before (`protocol.words`).
The payload is the variant's files, one after the other, in the order of `files` (no archive format: nothing to parse,
no path to escape). `object.sha256` names the bytes as they travel.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from edge_agent.protocol.base import Bytes, Name, Sha256, Wire
from edge_agent.protocol.profile import DELEGATES_OF, FORMAT_OF, Delegate, FileFormat, RuntimeName
from edge_agent.protocol.signature import Datatype, Dimension, ModelSignature

BLOCK_BYTES = 64 * 1024  # 64 KiB reached 100 subscribers at 1.1 GB/s on Mosquitto; 16 KiB halves that
MAX_OBJECT_BYTES = 2 << 30


class Encoding(StrEnum):
    """How the payload became the object; wire strings."""

    IDENTITY = "identity"
    ZSTD = "zstd"
    WORDS_ZSTD = "words+zstd"  # regrouped as `protocol.words` says, then zstd
    ZSTD_PATCH = "zstd-patch"  # of a delta (`protocol.delta`), never of a whole object


class FileRole(StrEnum):
    """What a file of the payload is for."""

    MODEL = "model"
    GOLDEN = "golden"


class PayloadFile(Wire):
    """One file of the payload."""

    role: FileRole
    format: FileFormat | None = None  # of a model; None: what the manifest's runtime loads
    sha256: Sha256
    size_bytes: Bytes


class ObjectDescriptor(Wire):
    """The bytes that travel, and the hash of each of their blocks, so that a poisoned block is found at once."""

    sha256: Sha256
    size_bytes: Annotated[Bytes, Field(gt=0, le=MAX_OBJECT_BYTES)]
    encoding: Encoding = Encoding.ZSTD
    block_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = BLOCK_BYTES
    block_sha256: tuple[Sha256, ...]

    @model_validator(mode="after")
    def _one_hash_per_block(self) -> Self:
        expected = -(-self.size_bytes // self.block_bytes)
        if len(self.block_sha256) != expected:
            raise ValueError(f"{self.size_bytes} bytes make {expected} blocks, but {len(self.block_sha256)} are listed")
        return self

    @property
    def block_count(self) -> int:
        """Blocks of this object."""
        return len(self.block_sha256)

    def block_span(self, index: int) -> tuple[int, int]:
        """First byte and length of a block.

        Raises:
            IndexError: the object has no such block.
        """
        if not 0 <= index < self.block_count:
            raise IndexError(f"block {index} of {self.block_count}")
        start = index * self.block_bytes
        return start, min(self.block_bytes, self.size_bytes - start)

    @classmethod
    def describe(cls, data: bytes, *, encoding: Encoding, block_bytes: int = BLOCK_BYTES) -> Self:
        """Describe bytes that are at hand."""
        blocks = (data[start : start + block_bytes] for start in range(0, len(data), block_bytes))
        return cls(
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            encoding=encoding,
            block_bytes=block_bytes,
            block_sha256=tuple(hashlib.sha256(block).hexdigest() for block in blocks),
        )


class TensorBinding(Wire):
    """How an app's tensor becomes a tensor of the file: `file_value = round(app_value / scale) + zero_point`.

    `scale` None: the values pass as they are, converted to `datatype` where it differs.
    """

    name: str  # of the app's tensor, in the signature
    index: Annotated[int, Field(ge=0, le=63)]  # position among the file's inputs (or outputs)
    datatype: Datatype  # of the file's tensor
    shape: tuple[Dimension, ...]  # of the file's tensor, its own batch included
    scale: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    zero_point: int = 0


class Golden(Wire):
    """Inputs with the outputs that this very variant must give; arrays `in_0.. out_0..` in the golden file.

    The golden file is an `.npz` without pickles; arrays are in the app's types, batch first. A device passes when every
    output is within `atol + rtol * abs(expected)`.
    """

    samples: Annotated[int, Field(ge=1, le=64)]
    atol: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class VariantManifest(Wire):
    """All that a device must know of a variant; fetched by its own sha256, so what it says can't change.

    No latency that a build measured stands here: a variant that is built again shall not get another manifest for that.
    """

    v: Annotated[int, Field(ge=1)] = 1
    variant_id: Name
    model: Name
    version: Name
    profile: Name
    recipe: Name
    runtime: RuntimeName
    delegate: Delegate
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    signature: ModelSignature
    inputs: tuple[TensorBinding, ...]
    outputs: tuple[TensorBinding, ...]
    files: Annotated[tuple[PayloadFile, ...], Field(min_length=1, max_length=8)]
    payload_sha256: Sha256
    object: ObjectDescriptor
    golden: Golden | None = None
    labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if sum(1 for file in self.files if file.role is FileRole.MODEL) != 1:
            raise ValueError("a manifest lists exactly one file of role model")
        if self.object.encoding is Encoding.ZSTD_PATCH:
            raise ValueError("the object of a manifest is whole: a delta is offered beside it")
        if self.model_file.format not in (None, FORMAT_OF[self.runtime]):
            raise ValueError(f"the runtime {self.runtime} loads no .{self.model_file.format} file")
        if self.delegate not in DELEGATES_OF[self.runtime]:
            raise ValueError(f"the runtime {self.runtime} has no delegate {self.delegate}")
        if self.golden is not None and not any(file.role is FileRole.GOLDEN for file in self.files):
            raise ValueError("golden is set, but no file of role golden is listed")
        for kind, bindings, specs in (
            ("input", self.inputs, self.signature.inputs),
            ("output", self.outputs, self.signature.outputs),
        ):
            if sorted(binding.name for binding in bindings) != sorted(spec.name for spec in specs):
                raise ValueError(f"the {kind} bindings do not name the signature's {kind}s")
        return self

    @property
    def payload_bytes(self) -> int:
        """Bytes on the device once unpacked."""
        return sum(file.size_bytes for file in self.files)

    @property
    def model_file(self) -> PayloadFile:
        """The file that the runtime loads."""
        return next(file for file in self.files if file.role is FileRole.MODEL)
