"""A delta between two toy variants, as the registry makes it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import zstandard

from compressors.packing.deltas import make_delta
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor
from tests.edge_agent.surroundings.toy_variant import ToyVariant

if TYPE_CHECKING:
    from edge_agent.protocol.delta import Delta


def payload_of(variant: ToyVariant) -> bytes:
    return zstandard.decompress(variant.travelling)


def delta_between(base: ToyVariant, variant: ToyVariant) -> tuple[bytes, Delta]:
    """The bytes, and the description; the toys of one filler differ in a few bytes only."""
    made = make_delta(
        payload_of(base),
        payload_of(variant),
        whole_bytes=len(variant.travelling),
        base_sha256=base.manifest.payload_sha256,
    )
    assert made is not None
    return made


def offering(base: ToyVariant, variant: ToyVariant, *, block_bytes: int = 1024) -> tuple[ToyVariant, ToyVariant]:
    """The variant as it is offered with a delta from the base; and the delta, as something that a registry carries."""
    content, delta = delta_between(base, variant)
    described = ObjectDescriptor.describe(content, encoding=Encoding.ZSTD_PATCH, block_bytes=block_bytes)
    delta = delta.model_copy(update={"object": described})
    carried = ToyVariant(variant.manifest.model_copy(update={"object": described}), content)
    return replace(variant, deltas=(delta,)), carried
