"""Blocks of objects from S3, each read once and kept for a while within a limit of bytes."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from server.errors import DigestMismatchError, ObjectNotFoundError

if TYPE_CHECKING:
    from edge_agent.protocol.manifest import ObjectDescriptor
    from server.storage import ObjectStore

READ_BYTES = 1 << 20  # of one request to S3: neighbours are wanted next
CACHE_BYTES = 64 << 20


class BlockCache:
    """The latest blocks. Any thread may read."""

    def __init__(self, store: ObjectStore, *, max_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, descriptor: ObjectDescriptor, block: int) -> bytes:
        """One block, verified.

        Raises:
            ObjectNotFoundError: the object is not there, or shorter than its manifest says.
            DigestMismatchError: the store holds other bytes.
            StorageUnavailableError: try again later.
        """
        key = (descriptor.sha256, block)
        with self._lock:
            if (kept := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
                return kept
        self._read_on(descriptor, block)
        with self._lock:
            return self._blocks[key]

    def _read_on(self, descriptor: ObjectDescriptor, first: int) -> None:
        """Read a block and those after it, as many as one request may bring and the cache does not have."""
        last = first
        with self._lock:
            while (
                last + 1 < descriptor.block_count
                and (last + 2 - first) * descriptor.block_bytes <= READ_BYTES
                and (descriptor.sha256, last + 1) not in self._blocks
            ):
                last += 1
        start, _ = descriptor.block_span(first)
        end_start, end_length = descriptor.block_span(last)
        data = self._store.get_range(descriptor.sha256, start, end_start + end_length - start)
        read = []
        for block in range(first, last + 1):
            offset, length = descriptor.block_span(block)
            piece = data[offset - start : offset - start + length]
            if len(piece) != length:
                raise ObjectNotFoundError(f"S3 holds only a part of object {descriptor.sha256}.")
            actual = hashlib.sha256(piece).hexdigest()
            if actual != descriptor.block_sha256[block]:
                raise DigestMismatchError(expected_sha256=descriptor.block_sha256[block], actual_sha256=actual)
            read.append((block, piece))
        with self._lock:
            for block, piece in reversed(read):  # the one that is wanted now is the last to be dropped
                self._keep((descriptor.sha256, block), piece)

    def _keep(self, key: tuple[str, int], piece: bytes) -> None:
        self._bytes += len(piece) - len(self._blocks.pop(key, b""))
        self._blocks[key] = piece
        while self._bytes > self._max_bytes and len(self._blocks) > 1:
            _, dropped = self._blocks.popitem(last=False)
            self._bytes -= len(dropped)
