"""Sets of block numbers as bitmaps: bit `i % 8` of byte `i // 8`, least significant bit first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def pack(blocks: Iterable[int], *, count: int) -> bytes:
    """The bitmap of some of `count` blocks.

    Raises:
        IndexError: a block outside 0..count-1.
    """
    bitmap = bytearray(-(-count // 8))
    for block in blocks:
        if not 0 <= block < count:
            raise IndexError(f"block {block} of {count}")
        bitmap[block // 8] |= 1 << (block % 8)
    return bytes(bitmap)


def unpack(bitmap: bytes, *, count: int) -> list[int]:
    """The blocks in a bitmap, ascending; bits beyond `count` are ignored, a short bitmap ends early."""
    return [block for block in range(min(count, len(bitmap) * 8)) if bitmap[block // 8] >> (block % 8) & 1]
