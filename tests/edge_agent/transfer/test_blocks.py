"""An object that is being fetched: its blocks, on a disk that may fill up."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.manifest import Encoding, ObjectDescriptor
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

    start, length = described.block_span(3)
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", no_room)  # a file system that copies on write promises nothing
        with pytest.raises(DiskFullError):
            blocks.write(3, variant.travelling[start : start + length])
    assert 3 in blocks.missing(), "it is not there"
    assert blocks.write(3, variant.travelling[start : start + length]), "room again"
    blocks.close()


def test_block_file_of_a_process_that_was_killed_has_every_block_that_was_written(tmp_path: Path) -> None:
    variant = make_variant(filler_bytes=50_000)
    described = variant.manifest.object
    killed = BlockFile(tmp_path / "t", described)
    for index in (0, 7, described.block_count - 1):
        start, length = described.block_span(index)
        killed.write(index, variant.travelling[start : start + length])

    again = BlockFile(tmp_path / "t", described)  # the first one was never closed, and has told nobody what it has

    assert again.missing() == [i for i in range(described.block_count) if i not in (0, 7, described.block_count - 1)]
    killed.close()
    again.close()


def test_block_file_has_a_block_of_zeros_that_was_never_fetched(tmp_path: Path) -> None:
    data = bytes(2048) + os.urandom(1000)
    described = ObjectDescriptor.describe(data, encoding=Encoding.IDENTITY, block_bytes=1024)
    blocks = BlockFile(tmp_path / "t", described)
    blocks.write(2, data[2048:])
    blocks.close()

    again = BlockFile(tmp_path / "t", described)

    assert again.complete
    again.close()
