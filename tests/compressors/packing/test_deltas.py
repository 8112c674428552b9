"""A delta is made where it is worthwhile, and says what it needs."""

from __future__ import annotations

import hashlib
import random

import pytest
import zstandard

from compressors.packing.deltas import make_delta
from edge_agent.protocol.delta import MAX_DELTA_BLOCKS, MAX_WINDOW_BYTES, Delta
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor

NOISE = random.Random(7).randbytes(300_000)


def made(base: bytes, payload: bytes, whole_bytes: int | None = None) -> tuple[bytes, Delta] | None:
    sha256 = hashlib.sha256(base).hexdigest()
    whole_bytes = len(zstandard.compress(payload)) if whole_bytes is None else whole_bytes
    return make_delta(base, payload, whole_bytes=whole_bytes, base_sha256=sha256)


def test_delta_of_a_payload_that_moved_by_some_bytes_is_small_and_gives_it_back() -> None:
    payload = b"a header" + NOISE[:100_000] + b"changed" + NOISE[100_000:]
    found = made(NOISE, payload)
    assert found is not None
    content, delta = found
    assert len(content) < 1000
    dictionary = zstandard.ZstdCompressionDict(NOISE, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=delta.window_bytes)
    assert decompressor.decompress(content) == payload
    assert delta.memory_bytes == 2 * len(NOISE) + delta.window_bytes


def test_delta_made_twice_has_the_same_bytes() -> None:
    assert made(NOISE, NOISE[5:]) == made(NOISE, NOISE[5:])


def test_delta_between_payloads_that_have_nothing_in_common_is_none() -> None:
    assert made(NOISE, random.Random(8).randbytes(300_000)) is None


def test_delta_that_is_smaller_by_less_than_a_tenth_is_none() -> None:
    payload = NOISE[:50_000] + random.Random(9).randbytes(50_000)
    found = made(NOISE, payload, whole_bytes=100_000)
    assert found is not None
    assert made(NOISE, payload, whole_bytes=len(found[0])) is None


@pytest.mark.parametrize(("base", "payload"), [(b"", NOISE), (NOISE, b""), (bytes(MAX_WINDOW_BYTES + 1), NOISE)])
def test_delta_from_or_to_what_can_be_none_is_none(base: bytes, payload: bytes) -> None:
    assert made(base, payload, whole_bytes=1 << 30) is None


def test_large_delta_has_larger_blocks_not_more_of_them() -> None:
    payload = random.Random(10).randbytes(5 << 20)
    found = made(NOISE, payload, whole_bytes=10 << 20)
    assert found is not None
    assert found[1].object.block_count <= MAX_DELTA_BLOCKS
    assert found[1].object.block_bytes == 128 << 10


def test_description_of_too_many_blocks_or_of_no_delta_is_refused() -> None:
    few = ObjectDescriptor.describe(bytes(2000), encoding=Encoding.ZSTD, block_bytes=1024)
    many = ObjectDescriptor.describe(bytes(65 * 1024), encoding=Encoding.ZSTD_PATCH, block_bytes=1024)
    for described in (few, many):
        with pytest.raises(ValueError, match="a delta"):
            Delta(base_payload_sha256="0" * 64, base_bytes=1, window_bytes=1024, object=described)
