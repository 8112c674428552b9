"""Make a delta from one packed variant to another: zstd with the base's payload as its dictionary (`protocol.delta`).

The base is the payload as it lies on a device, not its regrouped words: a device would have to regroup it first, and
where a file only moves by some bytes the regrouped words have nothing in common any more.
"""

from __future__ import annotations

from typing import Final

import zstandard

from edge_agent.protocol.delta import MAX_DELTA_BLOCKS, MAX_WINDOW_BYTES, Delta
from edge_agent.protocol.manifest import BLOCK_BYTES, Encoding, ObjectDescriptor

WORTHWHILE: Final = 0.9  # of the whole object: for less nobody shall need the memory that it takes
LEVEL: Final = 12  # with tables as large as the base: 10 s for 18 MB of floats, and as small as level 19 makes it in 52
LARGEST_BLOCK_BYTES: Final = 1 << 20
SMALLEST_LOG, LARGEST_LOG = 10, 27


def make_delta(base: bytes, payload: bytes, *, whole_bytes: int, base_sha256: str) -> tuple[bytes, Delta] | None:
    """The delta and its description; the same payloads always give the same bytes.

    Args:
        base: the payload that devices have.
        payload: the one that they shall have.
        whole_bytes: what the whole object takes on the wire.
        base_sha256: of `base`.

    Returns:
        None where a delta is not worthwhile: not smaller by a tenth, or too large to be one.
    """
    if not base or not payload or max(len(base), len(payload)) > MAX_WINDOW_BYTES:
        return None
    log = _log(max(len(base), len(payload)))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, window_log=log, hash_log=min(log, 25), chain_log=min(log, 25), write_content_size=True
    )
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    content = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(payload)
    block_bytes = BLOCK_BYTES
    while len(content) > MAX_DELTA_BLOCKS * block_bytes:
        block_bytes *= 2
    if len(content) > WORTHWHILE * whole_bytes or block_bytes > LARGEST_BLOCK_BYTES:
        return None
    described = ObjectDescriptor.describe(content, encoding=Encoding.ZSTD_PATCH, block_bytes=block_bytes)
    return content, Delta(
        base_payload_sha256=base_sha256, base_bytes=len(base), window_bytes=1 << log, object=described
    )


def _log(size_bytes: int) -> int:
    """The smallest window of zstd's that holds so many bytes."""
    return min(LARGEST_LOG, max(SMALLEST_LOG, (size_bytes - 1).bit_length()))
