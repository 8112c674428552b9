"""A process that exits: turns a complete object into an installed variant, so that the supervisor holds nothing large.

Decompresses within the manifest's sizes, splits into files, verifies every hash, fsyncs, renames. Its last line on
standard output is one JSON object: `{"reason": "none", "detail": ""}`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

from pydantic import ValidationError

from edge_agent.errors import DigestMismatchError, EdgeAgentError
from edge_agent.protocol.delta import MAX_WINDOW_BYTES, Delta
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor, VariantManifest
from edge_agent.protocol.states import Reason
from edge_agent.protocol.words import SegmentError, payload_of
from edge_agent.storage.durable import fsync_folder
from edge_agent.storage.variants import MANIFEST, UNFINISHED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 256 * 1024
DELTA_SPARE_BYTES = 64 << 20  # beside base and window: libraries, buffers


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class PayloadSizeError(EdgeAgentError):
    """The object unpacks to more or fewer bytes than its manifest says."""

    code = Reason.DIGEST_MISMATCH.value


class CorruptObjectError(EdgeAgentError):
    """The object is no zstd frame, or not what was regrouped into one."""

    code = Reason.DIGEST_MISMATCH.value


class BaseDamagedError(EdgeAgentError):
    """The variant that a delta begins from is not, or no longer, what it was."""

    code = Reason.DIGEST_MISMATCH.value


class _HashedReader:
    """Reads a file and hashes all that passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest: _Digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


@dataclass(frozen=True)
class Base:
    """An installed variant, and the delta that is applied to it."""

    folder: Path
    delta: Delta

    def payload(self) -> bytearray:
        """The payload that the variant came from, as its files lie on the disk.

        Raises:
            BaseDamagedError: it is not the one that the delta begins from.
        """
        try:
            manifest = VariantManifest.model_validate_json((self.folder / MANIFEST).read_bytes())
            payload = bytearray()
            for file in manifest.files:
                payload += (self.folder / file.role.value).read_bytes()
        except (OSError, ValidationError) as exc:
            raise BaseDamagedError(f"the variant that the delta begins from can't be read: {exc}") from exc
        if hashlib.sha256(payload).hexdigest() != self.delta.base_payload_sha256:
            raise BaseDamagedError("the variant that the delta begins from is damaged on this disk, or another one")
        return payload


def unpack(object_path: Path, manifest_path: Path, target: Path, base: Base | None = None) -> None:
    """Install a variant at `target`; afterwards it is there whole, or not at all.

    Args:
        object_path: what has travelled.
        manifest_path: of the variant.
        target: its folder.
        base: what the object, a delta, is applied to; None: the object is whole.

    Raises:
        BaseDamagedError: the base is not the one that the delta begins from.
        DigestMismatchError: object, payload or a file differs from the manifest.
        PayloadSizeError: the payload is longer or shorter than the manifest says.
        CorruptObjectError: the object can't be decompressed.
    """
    text = manifest_path.read_bytes()
    manifest = VariantManifest.model_validate_json(text)
    if target.exists():
        return  # content-addressed: a crash came after the rename
    # a process of a supervisor that was killed may still be at the same variant: each has a folder of its own
    new = target.with_name(f"{UNFINISHED_PREFIX}{target.name}-{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        _write_files(object_path, manifest, new, base)
        with (new / MANIFEST).open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(new)
        new.rename(target)
        fsync_folder(target.parent)
    except BaseException as exc:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(exc, OSError) and exc.errno in (errno.ENOTEMPTY, errno.EEXIST) and target.exists():
            return  # the other one was first
        raise


def _write_files(object_path: Path, manifest: VariantManifest, folder: Path, base: Base | None) -> None:
    payload_digest = hashlib.sha256()
    travelled = manifest.object if base is None else base.delta.object
    with object_path.open("rb") as raw:
        reader = _HashedReader(raw)
        chunks = _payload(reader, travelled, base)
        buffer = b""
        for wanted in manifest.files:
            digest, left = hashlib.sha256(), wanted.size_bytes
            with (folder / wanted.role.value).open("xb") as file:
                while left:
                    buffer = buffer or next(chunks, b"")
                    if not buffer:
                        raise PayloadSizeError(f"the payload ends {left} bytes before the end of file {wanted.role}")
                    part, buffer = buffer[:left], buffer[left:]
                    left -= len(part)
                    digest.update(part)
                    payload_digest.update(part)
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            _expect(wanted.sha256, digest.hexdigest())
        if buffer or next(chunks, b""):
            raise PayloadSizeError(f"the payload is longer than the {manifest.payload_bytes} bytes of its manifest")
        while reader.read(CHUNK_BYTES):  # what follows the frame counts for the object's hash
            pass
    _expect(manifest.payload_sha256, payload_digest.hexdigest())
    _expect(travelled.sha256, reader.digest.hexdigest())


def _payload(reader: _HashedReader, travelled: ObjectDescriptor, base: Base | None) -> Iterator[bytes]:
    if base is not None:
        return _decompressed(reader, base)
    if travelled.encoding is Encoding.IDENTITY:
        return iter(lambda: reader.read(CHUNK_BYTES), b"")
    content = _decompressed(reader)
    return content if travelled.encoding is Encoding.ZSTD else _regrouped(content)


def _regrouped(content: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from payload_of(content)
    except SegmentError as exc:
        raise CorruptObjectError(f"the object does not become a payload: {exc}") from exc


def _decompressed(reader: _HashedReader, base: Base | None = None) -> Iterator[bytes]:
    import zstandard  # noqa: PLC0415  only this short-lived process ever needs it

    if base is None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    else:
        dictionary = zstandard.ZstdCompressionDict(base.payload(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        decompressor = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=base.delta.window_bytes)
    try:
        with decompressor.stream_reader(cast("IO[bytes]", reader), read_size=CHUNK_BYTES, closefd=False) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
    except zstandard.ZstdError as exc:
        raise CorruptObjectError(f"the object does not decompress: {exc}") from exc


def _expect(expected_sha256: str, actual_sha256: str) -> None:
    if expected_sha256 != actual_sha256:
        raise DigestMismatchError(expected_sha256=expected_sha256, actual_sha256=actual_sha256)


def limit_memory(delta: Delta) -> None:
    """A delta that needs more memory than it says ends this process, and nothing else."""
    limit = delta.memory_bytes + DELTA_SPARE_BYTES
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main(arguments: list[str]) -> int:
    """`unpack OBJECT MANIFEST TARGET [BASE DELTA]`; DELTA is JSON."""
    reason, detail, base = Reason.NONE, "", None
    object_path, manifest_path, target = map(Path, arguments[:3])
    try:
        if arguments[3:]:
            base = Base(Path(arguments[3]), Delta.model_validate_json(arguments[4]))
            limit_memory(base.delta)
        unpack(object_path, manifest_path, target, base)
    except MemoryError:
        reason, detail = Reason.INTERNAL, "there is not enough memory to unpack it"
    except EdgeAgentError as exc:
        reason, detail = Reason(exc.code), str(exc)
    except OSError as exc:
        reason = Reason.DISK_FULL if exc.errno in (errno.ENOSPC, errno.EDQUOT) else Reason.INTERNAL
        detail = str(exc)
    sys.stdout.write(json.dumps({"reason": reason, "detail": detail}) + "\n")
    return 0 if reason is Reason.NONE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
