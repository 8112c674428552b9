"""The job that makes deltas: a file for each that is worthwhile, and the truth about the others."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from compressors.contract import DeltaPair, DeltaRequest, PackedPaths, ProgressLine
from compressors.errors import ReportError
from compressors.packing.delta_job import run_deltas
from compressors.packing.package import encode
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor
from tests.server.manifests import manifest_of

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.protocol.manifest import VariantManifest

NOISE = random.Random(3).randbytes(100_000)
OTHER_NOISE = random.Random(4).randbytes(100_000)
PLENTY = 1 << 30


def packed(folder: Path, payload: bytes, *, damaged: bool = False) -> PackedPaths:
    """A variant as builds pack it."""
    content, encoding = encode(payload)
    described: VariantManifest = manifest_of(payload).model_copy(
        update={"object": ObjectDescriptor.describe(content, encoding=encoding)}
    )
    stem = folder / hashlib.sha256(payload).hexdigest()
    paths = PackedPaths(manifest_path=stem.with_suffix(".json"), object_path=stem.with_suffix(".object"))
    paths.manifest_path.write_text(described.model_dump_json())
    paths.object_path.write_bytes(content[:-1] if damaged else content)
    return paths


def request_of(folder: Path, *pairs: tuple[bytes, bytes, int]) -> DeltaRequest:
    (folder / "output").mkdir()
    made = [
        DeltaPair(base=packed(folder, base), variant=packed(folder, payload), memory_bytes=memory_bytes)
        for base, payload, memory_bytes in pairs
    ]
    return DeltaRequest(pairs=tuple(made), output_dir=folder / "output")


def test_job_leaves_a_file_for_what_is_worthwhile_and_none_for_the_rest(tmp_path: Path) -> None:
    pairs = (NOISE, NOISE + b"more", PLENTY), (NOISE, OTHER_NOISE, PLENTY), (NOISE, NOISE + b"less", 10_000)
    lines: list[ProgressLine] = []
    result = run_deltas(request_of(tmp_path, *pairs), lines.append)
    alike, unlike, too_large = result.made
    assert alike.delta is not None
    assert alike.whole_bytes > 50 * alike.delta.object.size_bytes
    assert (unlike.delta, too_large.delta) == (None, None)
    (left,) = (tmp_path / "output").iterdir()
    assert left.name == alike.delta.object.sha256 == hashlib.sha256(left.read_bytes()).hexdigest()
    assert alike.delta.object.encoding is Encoding.ZSTD_PATCH
    assert [line.done for line in lines] == [0, 1, 2]


def test_job_given_an_object_that_is_not_the_one_of_its_manifest_refuses(tmp_path: Path) -> None:
    request = request_of(tmp_path, (NOISE, NOISE + b"more", PLENTY))
    packed(tmp_path, NOISE, damaged=True)
    with pytest.raises(ReportError, match="is not the one of its manifest"):
        run_deltas(request, lambda _line: None)
