"""Pack a variant: its files become one payload, the payload one zstd object, and the manifest tells how to check it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from compressors.errors import ReportError
from compressors.packing.words import regroup
from edge_agent.protocol.manifest import (
    Encoding,
    FileRole,
    Golden,
    ObjectDescriptor,
    PayloadFile,
    VariantManifest,
)
from edge_agent.protocol.words import SegmentError, payload_of

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.files.formats import Target
    from edge_agent.protocol.profile import FileFormat
    from edge_agent.protocol.signature import ModelSignature
    from edge_agent.runtimes.measure import MeasureResult

QUICK_LEVEL, THOROUGH_LEVEL = 3, 19  # 0.06 s and 6.3 s for 18 MB of float weights, for the same size within 0.01 %
THOROUGH_BYTES = 1 << 20  # up to here the thorough level costs nothing
TRIAL_BYTES = 1 << 20
CHUNK_BYTES = 1 << 18
WORTHWHILE = 0.98  # clustered or sparse weights shrink much further: one fleet fetches what is built once


@dataclass(frozen=True)
class Packed:
    """The object as it travels, and what it is made of."""

    content: bytes
    descriptor: ObjectDescriptor
    files: tuple[PayloadFile, ...]
    payload_sha256: str
    golden: Golden | None


def pack(model: bytes, ending: FileFormat, golden: tuple[bytes, Golden] | None) -> Packed:
    """Pack the files of a variant; the same files always give the same bytes."""
    parts: list[tuple[FileRole, FileFormat | None, bytes]] = [(FileRole.MODEL, ending, model)]
    if golden is not None:
        parts.append((FileRole.GOLDEN, None, golden[0]))
    payload = b"".join(content for *_, content in parts)
    content, encoding = encode(payload)
    return Packed(
        content=content,
        descriptor=ObjectDescriptor.describe(content, encoding=encoding),
        files=tuple(
            PayloadFile(role=role, format=kind, sha256=_sha256(part), size_bytes=len(part))
            for role, kind, part in parts
        ),
        payload_sha256=_sha256(payload),
        golden=None if golden is None else golden[1],
    )


def model_of(content: bytes, described: VariantManifest) -> bytes:
    """The model file of a packed variant, out of its object as it travels.

    Raises:
        ReportError: the object is not the one that its manifest describes.
    """
    payload, start = payload_from(content, described), 0
    for part in described.files:
        if part.role is FileRole.MODEL:
            break
        start += part.size_bytes
    return payload[start : start + described.model_file.size_bytes]


def payload_from(content: bytes, described: VariantManifest) -> bytes:
    """The payload of a packed variant, out of its object as it travels.

    Raises:
        ReportError: the object is not the one that its manifest describes.
    """
    payload = b"" if _sha256(content) != described.object.sha256 else _unpacked(content, described)
    if _sha256(payload) != described.payload_sha256:
        raise ReportError(
            f"the object of {described.variant_id} is not the one of its manifest: build the variant again"
        )
    return payload


def _unpacked(content: bytes, described: VariantManifest) -> bytes:
    if described.object.encoding is Encoding.IDENTITY:
        return content
    unpacked = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content))
    chunks = iter(lambda: unpacked.read(CHUNK_BYTES), b"")
    try:
        return b"".join(chunks if described.object.encoding is Encoding.ZSTD else payload_of(chunks))
    except (zstandard.ZstdError, SegmentError):
        return b""  # has the hash of nothing


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def encode(payload: bytes) -> tuple[bytes, Encoding]:
    """The object of a payload, its words regrouped where a quick trial shows that it shrinks further."""
    regrouped = regroup(payload)
    if len(_compressed(regrouped, QUICK_LEVEL)) < len(_compressed(payload, QUICK_LEVEL)):
        return compress(regrouped), Encoding.WORDS_ZSTD
    return compress(payload), Encoding.ZSTD


def compress(payload: bytes) -> bytes:
    """One zstd frame, at the thorough level where a trial in the payload's middle shows that it is worth the time."""
    if len(payload) > THOROUGH_BYTES:
        start = (len(payload) - TRIAL_BYTES) // 2
        trial = payload[start : start + TRIAL_BYTES]
        if len(_compressed(trial, THOROUGH_LEVEL)) > WORTHWHILE * len(_compressed(trial, QUICK_LEVEL)):
            return _compressed(payload, QUICK_LEVEL)
    return _compressed(payload, THOROUGH_LEVEL)


def _compressed(content: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(content)


@dataclass(frozen=True)
class Identity:
    """Which variant it is."""

    model: str
    version: str
    profile: str
    recipe: str
    variant_id: str


def manifest(
    packed: Packed,
    identity: Identity,
    *,
    target: Target,
    result: MeasureResult,
    signature: ModelSignature,
    labels: tuple[str, ...],
) -> VariantManifest:
    """The manifest of a packed variant: `result` is the measurement that bound its tensors on the target."""
    return VariantManifest(
        variant_id=identity.variant_id,
        model=identity.model,
        version=identity.version,
        profile=identity.profile,
        recipe=identity.recipe,
        runtime=target.runtime,
        delegate=target.delegate,
        threads=target.threads,
        signature=signature,
        inputs=result.inputs,
        outputs=result.outputs,
        files=packed.files,
        payload_sha256=packed.payload_sha256,
        object=packed.descriptor,
        golden=packed.golden,
        labels=labels,
    )


def write_named(folder: Path, content: bytes) -> str:
    """Write bytes under their sha256; the same bytes twice are written once."""
    digest = _sha256(content)
    target = folder / digest
    if not target.exists():
        temporary = folder / f".{digest}.partial"
        temporary.write_bytes(content)
        temporary.replace(target)
    return digest
