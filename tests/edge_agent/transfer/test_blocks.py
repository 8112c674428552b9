"""An object that is being fetched: its blocks, on a disk that may fill up."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from edge_agent.transfer.blocks import BlockFile, DiskFullError
from tests.edge_agent.surroundings.toy_variant import make_variant

if TYPE_CHECKING:
    from pathlib import Path


def test_block_file_believes_only_blocks_whose_hash_is_right(tmp_path: Path) -> None:
    variant = make_variant(filler_bytes=50_000)
    described = variant.manifest.object
    blocks = BlockFile(tmp_path / "t", described)
    for index in range(described.block_count):
        start, length = described.block_span(index)
        block = variant.travelling[start : start + length]
        assert not blocks.write(index, b"\0" * length)
        assert not blocks.write(index, block[:-1])
        assert blocks.write(index, block)
        assert not blocks.write(index, block), "twice is not new"
    assert not blocks.write(-1, b"")
    assert not blocks.write(10_000, b"")
    assert blocks.complete
    assert blocks.done_bytes == described.size_bytes
    assert blocks.wrong_blocks == 2 * described.block_count
    blocks.close()
    with (tmp_path / "t" / "data").open("r+b") as file:
        file.seek(5000)
        file.write(b"flipped")
    again = BlockFile(tmp_path / "t", described)
    assert again.missing() == [5000 // 1024]
    again.close()


def test_block_file_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(DiskFullError):
        BlockFile(tmp_path / "t", make_variant().manifest.object)


def test_block_file_on_a_disk_that_fills_up_meanwhile_says_so_and_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = make_variant(filler_bytes=50_000)
    described = variant.manifest.object
    blocks = BlockFile(tmp_path / "t", described)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", no_room)  # the blocks have their room, the bitmap has none

    def fill() -> None:
        for index in range(described.block_count):
            start, length = described.block_span(index)
            blocks.write(index, variant.travelling[start : start + length])

    with pytest.raises(DiskFullError):
        fill()
    blocks.close()
