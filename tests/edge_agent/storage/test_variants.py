"""Folders of installed variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.layout import Layout
from edge_agent.storage import variants
from edge_agent.storage.variants import VariantFolders
from edge_agent.transfer.unpack import unpack
from tests.edge_agent.surroundings.toy_variant import make_variant

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_used_bytes_counts_on_while_another_process_renames_what_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    folders = VariantFolders(layout)
    half = tmp_path / "variants" / ".new-half"
    half.mkdir()
    (half / "model").write_bytes(bytes(8192))
    used = folders.used_bytes()
    assert used >= 8192

    def listed_before_the_rename(folder: Path) -> list[Path]:
        return [folder / "model", folder / "renamed-meanwhile"]

    monkeypatch.setattr(variants, "_files", listed_before_the_rename)
    assert folders.used_bytes() == used


def test_variant_folders_forget_what_a_crash_left_half_done(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    folders = VariantFolders(layout)
    variant = make_variant()
    data, manifest, _ = variant.laid_out(tmp_path)
    unpack(data, manifest, layout.variant_dir(variant.manifest_sha256))
    (tmp_path / "variants" / ".new-half").mkdir()
    broken = layout.variant_dir("0" * 64)
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    assert list(folders.installed()) == [variant.manifest_sha256]
    assert [p.name for p in (tmp_path / "variants").iterdir()] == [variant.manifest_sha256]
    folders.collect(keep_manifests=[], keep_objects=[])
    assert not list((tmp_path / "variants").iterdir())
