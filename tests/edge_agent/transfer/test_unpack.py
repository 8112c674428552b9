"""From a complete object to an installed variant, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from edge_agent.errors import DigestMismatchError, EdgeAgentError
from edge_agent.protocol.manifest import Encoding, ObjectDescriptor, VariantManifest
from edge_agent.protocol.words import HEADER, SegmentKind
from edge_agent.transfer import unpack as unpack_module
from edge_agent.transfer.unpack import CorruptObjectError, PayloadSizeError, unpack
from tests.edge_agent.surroundings.toy_variant import ToyVariant, make_variant

if TYPE_CHECKING:
    from pathlib import Path


def changed(variant: ToyVariant, travelling: bytes, **update: object) -> ToyVariant:
    described = ObjectDescriptor.describe(travelling, encoding=variant.manifest.object.encoding, block_bytes=1024)
    return ToyVariant(variant.manifest.model_copy(update={"object": described, **update}), travelling)


def test_unpack_installs_a_variant_whole_and_once(tmp_path: Path) -> None:
    paths = make_variant().laid_out(tmp_path)
    unpack(*paths)
    unpack(*paths)
    assert sorted(p.name for p in paths[2].iterdir()) == ["manifest.json", "model"]


def test_unpack_beside_another_that_a_killed_supervisor_left_installs_one_whole_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_variant().laid_out(tmp_path)
    write = unpack_module._write_files

    def other_one_meanwhile(*arguments: Any) -> None:  # noqa: ANN401  passed on as they are
        write(*arguments)
        monkeypatch.setattr(unpack_module, "_write_files", write)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        unpack(*paths)

    monkeypatch.setattr(unpack_module, "_write_files", other_one_meanwhile)
    unpack(*paths)
    assert sorted(p.name for p in paths[2].iterdir()) == ["manifest.json", "model"]
    assert [p.name for p in paths[2].parent.iterdir()] == ["v"]


def bomb() -> ToyVariant:
    return changed(make_variant(), zstandard.compress(bytes(200 << 20)))


def truncated() -> ToyVariant:
    return changed(make_variant(), make_variant().travelling[:-200])


def other_content() -> ToyVariant:
    variant = make_variant()
    size = variant.manifest.payload_bytes
    return changed(variant, zstandard.compress(bytes(size)))


def wrong_payload_hash() -> ToyVariant:
    variant = make_variant()
    return changed(variant, variant.travelling, payload_sha256="0" * 64)


def trailing_bytes() -> ToyVariant:
    variant = make_variant()
    wrong = variant.manifest.object.model_copy(update={"sha256": "0" * 64})
    return ToyVariant(variant.manifest.model_copy(update={"object": wrong}), variant.travelling + b"more")


@pytest.mark.parametrize(
    ("variant", "error"),
    [
        (bomb(), EdgeAgentError),
        (truncated(), EdgeAgentError),
        (changed(make_variant(), b"not zstd at all"), CorruptObjectError),
        (other_content(), DigestMismatchError),
        (wrong_payload_hash(), DigestMismatchError),
        (trailing_bytes(), EdgeAgentError),
        (changed(make_variant(), zstandard.compress(b"short")), PayloadSizeError),
    ],
    ids=["bomb", "truncated", "no-zstd", "other-content", "payload-hash", "object-hash", "short"],
)
def test_unpack_of_an_object_that_is_not_its_manifests_leaves_nothing(
    tmp_path: Path, variant: ToyVariant, error: type[Exception]
) -> None:
    paths = variant.laid_out(tmp_path)
    with pytest.raises(error):
        unpack(*paths)
    assert not list((tmp_path / "variants").iterdir())


def test_unpack_process_needs_little_memory_for_a_bomb(tmp_path: Path) -> None:
    paths = [str(path) for path in bomb().laid_out(tmp_path)]
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20)); "
    code += "from edge_agent.transfer.unpack import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert '"digest_mismatch"' in result.stdout


def test_identity_encoding_is_unpacked_too(tmp_path: Path) -> None:
    variant = make_variant()
    content = zstandard.decompress(variant.travelling)
    plain = ToyVariant(
        VariantManifest.model_validate(
            variant.manifest.model_dump()
            | {"object": ObjectDescriptor.describe(content, encoding=Encoding.IDENTITY).model_dump()}
        ),
        content,
    )
    paths = plain.laid_out(tmp_path)
    unpack(*paths)
    assert hashlib.sha256((paths[2] / "model").read_bytes()).hexdigest() == variant.manifest.model_file.sha256


def regrouped(payload: bytes, manifest: VariantManifest) -> ToyVariant:
    content = zstandard.compress(payload)
    described = ObjectDescriptor.describe(content, encoding=Encoding.WORDS_ZSTD)
    return ToyVariant(manifest.model_copy(update={"object": described}), content)


def test_regrouped_payload_is_unpacked_too(tmp_path: Path) -> None:
    variant = make_variant()
    payload = zstandard.decompress(variant.travelling)
    paths = regrouped(HEADER.pack(SegmentKind.RAW, len(payload)) + payload, variant.manifest).laid_out(tmp_path)
    unpack(*paths)
    assert hashlib.sha256((paths[2] / "model").read_bytes()).hexdigest() == variant.manifest.model_file.sha256


def test_payload_that_was_regrouped_wrongly_is_refused(tmp_path: Path) -> None:
    paths = regrouped(HEADER.pack(SegmentKind.PLANES, 9) + b"short", make_variant().manifest).laid_out(tmp_path)
    with pytest.raises(CorruptObjectError, match="does not become a payload"):
        unpack(*paths)
    assert not paths[2].exists()
