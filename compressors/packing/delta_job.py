"""The deltas of a job: each pair is unpacked, the delta made, measured against the whole object, and written or not."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from compressors.contract import DeltaResult, MadeDelta, ProgressLine
from compressors.packing.deltas import make_delta
from compressors.packing.package import payload_from
from edge_agent.protocol.manifest import VariantManifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compressors.contract import DeltaPair, DeltaRequest, PackedPaths


def run_deltas(request: DeltaRequest, report: Callable[[ProgressLine], None]) -> DeltaResult:
    """Make what is worthwhile.

    Raises:
        ReportError: an object is not the one of its manifest.
    """
    made = []
    for number, pair in enumerate(request.pairs):
        report(ProgressLine(stage="deltas", done=number, of=len(request.pairs)))
        made.append(_made(pair, request.output_dir))
    return DeltaResult(made=tuple(made))


def _made(pair: DeltaPair, output_dir: Path) -> MadeDelta:
    (base, base_manifest), (payload, manifest) = _read(pair.base), _read(pair.variant)
    whole_bytes = manifest.object.size_bytes
    made = make_delta(base, payload, whole_bytes=whole_bytes, base_sha256=base_manifest.payload_sha256)
    if made is None or made[1].memory_bytes > pair.memory_bytes:
        return MadeDelta(whole_bytes=whole_bytes)
    content, delta = made
    (output_dir / hashlib.sha256(content).hexdigest()).write_bytes(content)
    return MadeDelta(whole_bytes=whole_bytes, delta=delta)


def _read(paths: PackedPaths) -> tuple[bytes, VariantManifest]:
    manifest = VariantManifest.model_validate_json(paths.manifest_path.read_bytes())
    return payload_from(paths.object_path.read_bytes(), manifest), manifest
