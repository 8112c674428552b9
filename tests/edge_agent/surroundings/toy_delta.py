"""A delta between two toy variants, as the registry makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

from compressors.packing.deltas import make_delta

if TYPE_CHECKING:
    from edge_agent.protocol.delta import Delta
    from tests.edge_agent.surroundings.toy_variant import ToyVariant


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
