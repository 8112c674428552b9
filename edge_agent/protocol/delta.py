"""A delta: the object that turns a payload which a device has into the one that it shall have.

It is one zstd frame whose dictionary is the base: the payload of another variant, as its files lie on the disk. What it
becomes is proven by the manifest's `payload_sha256` alone, so a wrong delta costs time and never gives a wrong file.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from edge_agent.protocol.base import Bytes, Sha256, Wire
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor

MAX_DELTA_BLOCKS: Final = 64  # their hashes stand in `desired`, whose size is capped
MAX_WINDOW_BYTES: Final = 128 << 20  # what a decoder must hold at once


class Fetched(StrEnum):
    """How a device came, or comes, by a variant's bytes; wire strings."""

    WHOLE = "whole"
    DELTA = "delta"
    WHOLE_AFTER_DELTA = "whole_after_delta"  # a delta was offered and did not do


class Delta(Wire):
    """One delta, for the devices that have its base; all others fetch the whole object of the manifest."""

    base_payload_sha256: Sha256
    base_bytes: Annotated[Bytes, Field(gt=0)]
    window_bytes: Annotated[Bytes, Field(gt=0, le=MAX_WINDOW_BYTES)]
    object: ObjectDescriptor

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.object.encoding is not Encoding.ZSTD_PATCH:
            raise ValueError(f"a delta's encoding is {Encoding.ZSTD_PATCH}, not {self.object.encoding}")
        if self.object.block_count > MAX_DELTA_BLOCKS:
            raise ValueError(f"a delta has at most {MAX_DELTA_BLOCKS} blocks, not {self.object.block_count}")
        return self

    @property
    def memory_bytes(self) -> int:
        """What applying it takes at once: the base, which zstd copies, and the window."""
        return 2 * self.base_bytes + self.window_bytes
