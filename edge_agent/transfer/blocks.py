"""An object that is being fetched: its bytes at their offsets, and which blocks are there.

No list of them is kept: what is on the disk is hashed before it is believed, so a kill loses no block that was written.
"""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.states import Reason

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.protocol.manifest import ObjectDescriptor


class DiskFullError(EdgeAgentError):
    """The file system has no room for the object."""

    code = Reason.DISK_FULL.value
    retryable = True


class BlockFile:
    """`transfers/<sha256>/data`. A block counts only after its hash was seen to be right.

    Raises:
        DiskFullError: there is no room; from the constructor and from `write`.
    """

    def __init__(self, folder: Path, descriptor: ObjectDescriptor) -> None:
        self.descriptor = descriptor
        self.data_path = folder / "data"
        self.received_bytes = 0  # over the network, repeated and wrong blocks included
        self.wrong_blocks = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.data_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            found_bytes = os.fstat(self._file).st_size
            if found_bytes != descriptor.size_bytes:
                os.ftruncate(self._file, descriptor.size_bytes)
            os.posix_fallocate(self._file, 0, descriptor.size_bytes)  # no room shows now, not after an hour
            self._present = self._verified_from_disk() if found_bytes else set()
        except OSError as exc:
            os.close(self._file)
            raise _translated(exc) from exc

    @property
    def complete(self) -> bool:
        """Whether every block is there."""
        return len(self._present) == self.descriptor.block_count

    @property
    def done_bytes(self) -> int:
        """Bytes of the blocks that are there."""
        full = len(self._present) * self.descriptor.block_bytes
        last = self.descriptor.block_count - 1
        return full - (self.descriptor.block_bytes - self.descriptor.block_span(last)[1]) * (last in self._present)

    def missing(self) -> list[int]:
        """The blocks that are still to come, ascending."""
        return [index for index in range(self.descriptor.block_count) if index not in self._present]

    def write(self, index: int, payload: bytes) -> bool:
        """Take a block; whether it was new and right."""
        self.received_bytes += len(payload)
        if not 0 <= index < self.descriptor.block_count or index in self._present:
            return False
        start, length = self.descriptor.block_span(index)
        if len(payload) != length or hashlib.sha256(payload).hexdigest() != self.descriptor.block_sha256[index]:
            self.wrong_blocks += 1
            return False
        try:
            os.pwrite(self._file, payload, start)
        except OSError as exc:
            raise _translated(exc) from exc
        self._present.add(index)
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _verified_from_disk(self) -> set[int]:
        zeros = bytes(self.descriptor.block_bytes)  # as what was never written reads: not hashed block by block
        zeros_sha256 = hashlib.sha256(zeros).hexdigest()
        present = set()
        for index, expected in enumerate(self.descriptor.block_sha256):
            start, length = self.descriptor.block_span(index)
            block = os.pread(self._file, length, start)
            actual = zeros_sha256 if block == zeros else hashlib.sha256(block).hexdigest()
            if actual == expected:
                present.add(index)
        return present


def _translated(exc: OSError) -> Exception:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFullError(f"there is no room for the object: {exc.strerror}")
    return exc
