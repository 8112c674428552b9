"""A payload whose 32-bit words were regrouped before zstd, so that weights shrink further: the layout and its reader.

zstd finds repeated bytes, but not that a float is one of sixteen values, or zero. So the payload is cut into segments,
each written in the form that suits it; a segment is `HEADER` (kind, count) and then, by kind:

- `RAW`: `count` bytes as they are.
- `PLANES`: `count` words; all first bytes, then all second bytes, and so on: the exponents of floats lie together.
- `CODEBOOK`: one byte, the number of values less one; the values as planes; `count` indices of a byte each.
- `SPARSE`: a bit for each of `count` words, most significant first, set where it is not zero; how many are (4 bytes);
  those words as planes.

Words and numbers are little-endian. A segment never holds more than `MAX_WORDS` words, so that both sides work on a few
hundred kilobytes at a time.
"""

from __future__ import annotations

import struct
from array import array
from enum import IntEnum
from itertools import compress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORD_BYTES: Final = 4
MAX_WORDS: Final = 1 << 16
MAX_CODEBOOK: Final = 256
HEADER: Final = struct.Struct("<BI")
COUNT: Final = struct.Struct("<I")
_WORD: Final = next(code for code in "IL" if array(code).itemsize == WORD_BYTES)
_FLAGS: Final = tuple(bytes(byte >> bit & 1 for bit in range(7, -1, -1)) for byte in range(256))


class SegmentKind(IntEnum):
    """How a segment is written."""

    RAW = 0
    PLANES = 1
    CODEBOOK = 2
    SPARSE = 3


class SegmentError(ValueError):
    """A segment does not keep to the layout."""


def payload_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The payload, segment by segment.

    Args:
        chunks: the regrouped payload, in pieces of any length.

    Raises:
        SegmentError: it does not keep to the layout.
    """
    source = _Source(chunks)
    while not source.at_end():
        kind, count = HEADER.unpack(source.take(HEADER.size))
        if kind not in _READERS:
            raise SegmentError(f"there is a segment of the unknown kind {kind}")
        if count > MAX_WORDS * (WORD_BYTES if kind == SegmentKind.RAW else 1):
            raise SegmentError(f"there is a segment of {count} words; at most {MAX_WORDS} are allowed")
        yield _READERS[kind](source, count)


class _Source:
    """Takes exact lengths from chunks of any length."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, bytearray()

    def at_end(self) -> bool:
        if not self._held:
            self._held += next(self._chunks, b"")
        return not self._held

    def take(self, length: int) -> bytes:
        while len(self._held) < length:
            chunk = next(self._chunks, b"")
            if not chunk:
                raise SegmentError(f"it ends {length - len(self._held)} bytes before its last segment does")
            self._held += chunk
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken


def _raw(source: _Source, count: int) -> bytes:
    return source.take(count)


def _planes(source: _Source, count: int) -> bytes:
    words = bytearray(count * WORD_BYTES)
    for plane in range(WORD_BYTES):
        words[plane::WORD_BYTES] = source.take(count)
    return bytes(words)


def _codebook(source: _Source, count: int) -> bytes:
    size = source.take(1)[0] + 1
    tables = [source.take(size).ljust(MAX_CODEBOOK, b"\0") for _ in range(WORD_BYTES)]
    indices = source.take(count)
    if count and max(indices) >= size:
        raise SegmentError(f"value {max(indices)} of a codebook is named that holds {size}")
    words = bytearray(count * WORD_BYTES)
    for plane, table in enumerate(tables):
        words[plane::WORD_BYTES] = indices.translate(table)
    return bytes(words)


def _sparse(source: _Source, count: int) -> bytes:
    flags = b"".join(_FLAGS[byte] for byte in source.take(-(-count // 8)))[:count]
    (filled,) = COUNT.unpack(source.take(COUNT.size))
    if filled != flags.count(1):
        raise SegmentError(f"there are {filled} words for {flags.count(1)} places")
    words, values = array(_WORD, bytes(count * WORD_BYTES)), array(_WORD, _planes(source, filled))
    for place, value in zip(compress(range(count), flags), values, strict=True):
        words[place] = value
    return words.tobytes()


_READERS: Final[dict[int, Callable[[_Source, int], bytes]]] = {
    SegmentKind.RAW: _raw,
    SegmentKind.PLANES: _planes,
    SegmentKind.CODEBOOK: _codebook,
    SegmentKind.SPARSE: _sparse,
}
