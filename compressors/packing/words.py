"""Regroups the 32-bit words of a payload before zstd, where that makes it smaller; the layout is the protocol's.

It knows no file format: each block of words is written in the form that is expected to be the shortest by the entropy
of its bytes, so that clustered, sparse and dense float weights are found wherever they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.protocol.words import COUNT, HEADER, MAX_CODEBOOK, MAX_WORDS, WORD_BYTES, SegmentKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Words = NDArray[np.uint32]

BLOCK_WORDS = 2048  # a tensor's ends are mixed with its neighbours: the smaller, the less of it is lost
GAIN = 0.97  # of the bytes as they are: less is not worth a form of its own, because zstd finds repeats too
BITS = 8


def regroup(payload: bytes) -> bytes:
    """The payload as segments; the same payload always gives the same bytes."""
    whole = len(payload) // WORD_BYTES
    words: Words = np.frombuffer(payload, "<u4", count=whole)
    segments = [_written(kind, words[start:end]) for kind, start, end in _runs(words)]
    if len(payload) % WORD_BYTES:
        tail = payload[whole * WORD_BYTES :]
        segments.append(HEADER.pack(SegmentKind.RAW, len(tail)) + tail)
    return b"".join(segments)


def _runs(words: Words) -> Iterator[tuple[SegmentKind, int, int]]:
    """Neighbouring blocks of one kind as one segment, as far as a segment, and a codebook, reach."""
    begun, kind, values = 0, None, np.empty(0, np.uint32)
    for start in range(0, len(words), BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS]
        own = np.unique(block)
        found = _kind_of(block, own)
        together = np.union1d(values, own) if found is SegmentKind.CODEBOOK else own
        full = start - begun >= MAX_WORDS or (found is SegmentKind.CODEBOOK and len(together) > MAX_CODEBOOK)
        if kind is not None and (found is not kind or full):
            yield kind, begun, start
            begun, together = start, own
        kind, values = found, together
    if kind is not None:
        yield kind, begun, len(words)


def _kind_of(block: Words, values: Words) -> SegmentKind:
    """The form that is expected to be the shortest."""
    bits = {
        SegmentKind.RAW: GAIN * len(block) * WORD_BYTES * _entropy(block.view(np.uint8)),
        SegmentKind.PLANES: _plane_bits(block),
    }
    if len(values) <= MAX_CODEBOOK:
        counts = np.unique(block, return_counts=True)[1]
        bits[SegmentKind.CODEBOOK] = len(block) * _entropy_of(counts)
    filled = block[block != 0]
    share = len(filled) / len(block)
    bits[SegmentKind.SPARSE] = len(block) * _entropy_of(np.array([share, 1 - share])) + _plane_bits(filled)
    return min(bits, key=lambda kind: (bits[kind], kind))


def _plane_bits(words: Words) -> float:
    planes = words.view(np.uint8).reshape(-1, WORD_BYTES)
    return sum(len(words) * _entropy(planes[:, plane]) for plane in range(WORD_BYTES))


def _entropy(values: NDArray[np.uint8]) -> float:
    """Bits a byte."""
    return _entropy_of(np.bincount(values, minlength=1 << BITS))


def _entropy_of(counts: NDArray[np.integer[Any] | np.floating[Any]]) -> float:
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum())


def _written(kind: SegmentKind, words: Words) -> bytes:
    header = HEADER.pack(kind, len(words) * WORD_BYTES if kind is SegmentKind.RAW else len(words))
    if kind is SegmentKind.RAW:
        return header + words.tobytes()
    if kind is SegmentKind.PLANES:
        return header + _planes(words)
    if kind is SegmentKind.CODEBOOK:
        values, indices = np.unique(words, return_inverse=True)
        return header + bytes([len(values) - 1]) + _planes(values) + indices.astype(np.uint8).tobytes()
    mask = words != 0
    return header + np.packbits(mask).tobytes() + COUNT.pack(int(mask.sum())) + _planes(words[mask])


def _planes(words: Words) -> bytes:
    return np.ascontiguousarray(words).view(np.uint8).reshape(-1, WORD_BYTES).T.tobytes()
