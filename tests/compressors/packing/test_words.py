"""Regrouping shrinks weights on the wire, whatever lies around them, and the device reads the same bytes again."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard

from compressors.packing.package import encode
from compressors.packing.words import regroup
from edge_agent.protocol.manifest import Encoding
from edge_agent.protocol.words import payload_of

RNG = np.random.default_rng(0)
DENSE = RNG.normal(0, 0.05, 60_000).astype(np.float32)
CLUSTERED = np.linspace(-0.1, 0.1, 16, dtype=np.float32)[RNG.integers(0, 16, 60_000)]
SPARSE = np.where(np.abs(DENSE) > np.quantile(np.abs(DENSE), 0.8), DENSE, 0).astype(np.float32)


def wire_bytes(content: bytes) -> int:
    return len(zstandard.compress(content, 19))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"abc",
        bytes(100_003),
        DENSE.tobytes(),
        CLUSTERED.tobytes(),
        SPARSE.tobytes(),
        b"header" + CLUSTERED.tobytes() + b"!" + SPARSE.tobytes() + DENSE.tobytes(),
        np.arange(300_000, dtype=np.int64).tobytes(),
        RNG.bytes(50_001),
        np.repeat(np.arange(600, dtype=np.uint32), 2048).tobytes(),  # more values in a run than a codebook holds
    ],
    ids=["empty", "short", "zeros", "dense", "clustered", "sparse", "mixed", "counting", "noise", "many-values"],
)
def test_regrouped_payload_is_read_back_to_the_byte(payload: bytes) -> None:
    assert b"".join(payload_of(iter([regroup(payload)]))) == payload


@pytest.mark.parametrize(
    ("weights", "share"), [(CLUSTERED, 0.85), (SPARSE, 0.85), (DENSE, 0.95)], ids=["clustered", "sparse", "dense"]
)
def test_regrouped_weights_travel_in_fewer_bytes(
    weights: np.ndarray[tuple[int], np.dtype[np.float32]], share: float
) -> None:
    content, encoding = encode(weights.tobytes())
    assert encoding is Encoding.WORDS_ZSTD
    assert len(content) < share * wire_bytes(weights.tobytes())


def test_bytes_that_gain_nothing_travel_as_they_are() -> None:
    integers = RNG.normal(0, 30, 100_000).astype(np.int8).tobytes()
    assert encode(integers)[1] is Encoding.ZSTD
