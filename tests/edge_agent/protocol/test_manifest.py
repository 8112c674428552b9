"""Manifests, blocks and bitmaps."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent.protocol import bitmap
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor, VariantManifest
from tests.edge_agent.surroundings.toy_variant import make_variant


@given(st.binary(min_size=1, max_size=9000), st.integers(1024, 4096))
def test_describe_gives_blocks_that_make_up_the_object(data: bytes, block_bytes: int) -> None:
    described = ObjectDescriptor.describe(data, encoding=Encoding.IDENTITY, block_bytes=block_bytes)
    blocks = []
    for index in range(described.block_count):
        start, length = described.block_span(index)
        blocks.append(data[start : start + length])
        assert hashlib.sha256(blocks[-1]).hexdigest() == described.block_sha256[index]
    assert b"".join(blocks) == data


@pytest.mark.parametrize("index", [-1, 3, 1 << 40])
def test_block_span_of_a_block_that_does_not_exist_is_refused(index: int) -> None:
    described = ObjectDescriptor.describe(bytes(3000), encoding=Encoding.IDENTITY, block_bytes=1024)
    with pytest.raises(IndexError):
        described.block_span(index)


def test_descriptor_with_too_few_hashes_is_refused() -> None:
    with pytest.raises(ValidationError, match="make 3 blocks, but 1 are listed"):
        ObjectDescriptor(sha256="0" * 64, size_bytes=3000, block_bytes=1024, block_sha256=("0" * 64,))


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_bitmap_there_and_back_is_the_same_set(case: tuple[int, set[int]]) -> None:
    count, blocks = case
    assert set(bitmap.unpack(bitmap.pack(blocks, count=count), count=count)) == blocks


@given(st.binary(max_size=40), st.integers(0, 100))
def test_bitmap_of_any_bytes_names_only_blocks_that_exist(data: bytes, count: int) -> None:
    assert all(0 <= block < count for block in bitmap.unpack(data, count=count))


@pytest.mark.parametrize("block", [-1, 8])
def test_bitmap_of_a_block_outside_is_refused(block: int) -> None:
    with pytest.raises(IndexError):
        bitmap.pack([block], count=8)


def test_manifest_there_and_back_is_the_same() -> None:
    manifest = make_variant().manifest
    assert VariantManifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": []}, "at least 1"),
        ({"golden": {"samples": 4, "atol": 0.1}}, "no file of role golden"),
        ({"inputs": []}, "input bindings do not name"),
        ({"golden": {"samples": 4, "atol": float("nan")}}, "finite"),
        ({"variant_id": "../x"}, "pattern"),
    ],
)
def test_manifest_that_contradicts_itself_is_refused(change: dict[str, object], words: str) -> None:
    document = make_variant().manifest.model_dump(mode="json") | change
    with pytest.raises(ValidationError, match=words):
        VariantManifest.model_validate(document)
