"""Regrouped words are read back to the byte, and what does not keep to the layout is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.protocol.words import HEADER, MAX_WORDS, SegmentError, SegmentKind, payload_of


def read(content: bytes, *, chunk_bytes: int = 7) -> bytes:
    return b"".join(payload_of(iter([content[i : i + chunk_bytes] for i in range(0, len(content), chunk_bytes)])))


def test_each_kind_of_segment_becomes_the_words_that_it_stands_for() -> None:
    content = b"".join(
        (
            HEADER.pack(SegmentKind.RAW, 3) + b"abc",
            HEADER.pack(SegmentKind.PLANES, 2) + bytes([1, 5, 2, 6, 3, 7, 4, 8]),
            HEADER.pack(SegmentKind.CODEBOOK, 3) + bytes([1]) + bytes([9, 8, 0, 0, 0, 0, 0, 0]) + bytes([1, 0, 1]),
            HEADER.pack(SegmentKind.SPARSE, 3) + bytes([0b01000000]) + bytes([1, 0, 0, 0]) + bytes([7, 0, 0, 1]),
        )
    )
    words = [0x04030201, 0x08070605, 8, 9, 8, 0, 0x01000007, 0]
    assert read(content) == b"abc" + np.array(words, "<u4").tobytes()
    assert read(b"") == b""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEADER.pack(9, 0), "unknown kind 9"),
        (HEADER.pack(SegmentKind.PLANES, MAX_WORDS + 1), "at most"),
        (HEADER.pack(SegmentKind.RAW, 0xFFFFFFFF), "at most"),
        (HEADER.pack(SegmentKind.PLANES, 2) + b"123", "ends 1 bytes before"),
        (b"\x01", "ends 4 bytes before"),
        (HEADER.pack(SegmentKind.CODEBOOK, 1) + bytes([0]) + bytes(4) + bytes([1]), "value 1 of a codebook"),
        (HEADER.pack(SegmentKind.SPARSE, 8) + bytes([3]) + bytes([1, 0, 0, 0]) + bytes(4), "1 words for 2 places"),
    ],
)
def test_segment_against_the_layout_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(SegmentError, match=said):
        read(content)
