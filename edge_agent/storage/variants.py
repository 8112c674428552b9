"""Installed variants: content-addressed folders, the pointers to the active ones, the storage budget.

A variant's folder is named by the sha256 of its manifest, so two manifests never share one.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.pointer import ActivePointer
from edge_agent.protocol.manifest import FileRole, VariantManifest
from edge_agent.storage.durable import fsync_folder, replace_file

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from edge_agent.layout import Layout

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
UNFINISHED_PREFIX = ".new-"


class VariantFolders:
    """The folders `variants/`, `transfers/` and `active/`.

    Args:
        layout: where they are.
        budget_bytes: what they may hold; None: half of what they have and could have now.
    """

    def __init__(self, layout: Layout, *, budget_bytes: int | None = None) -> None:
        self._layout = layout
        for folder in (self._variants, self._transfers, self._active):
            folder.mkdir(parents=True, exist_ok=True)
        fsync_folder(layout.root)  # at a first start: else a power cut takes what lies in them, and the databases
        self.budget_bytes = budget_bytes or (self.free_bytes() + self.used_bytes()) // 2

    @property
    def _variants(self) -> Path:
        return self._layout.variant_dir("x").parent

    @property
    def _transfers(self) -> Path:
        return self._layout.transfer_dir("x").parent

    @property
    def _active(self) -> Path:
        return self._layout.active_pointer("x").parent

    def installed(self) -> dict[str, VariantManifest]:
        """The whole variants on disk, by the sha256 of their manifests; leftovers of a crash are removed."""
        found: dict[str, VariantManifest] = {}
        for folder in sorted(self._variants.iterdir()):
            if folder.name.startswith(UNFINISHED_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                manifest = VariantManifest.model_validate_json((folder / MANIFEST).read_bytes())
                whole = all((folder / f.role.value).stat().st_size == f.size_bytes for f in manifest.files)
            except (OSError, ValidationError):
                whole = False
            if whole:
                found[folder.name] = manifest
            else:
                log.warning("variant folder %s is incomplete and was removed", folder.name[:12])
                shutil.rmtree(folder, ignore_errors=True)
        return found

    def manifest_bytes(self, manifest_sha256: str) -> int:
        """The size of an installed variant's manifest."""
        return (self._layout.variant_dir(manifest_sha256) / MANIFEST).stat().st_size

    def model_path(self, manifest_sha256: str) -> Path:
        """The file that the runtime loads."""
        return self._layout.variant_dir(manifest_sha256) / FileRole.MODEL.value

    def golden_path(self, manifest_sha256: str) -> Path | None:
        """The golden inputs and outputs, if the variant has them."""
        path = self._layout.variant_dir(manifest_sha256) / FileRole.GOLDEN.value
        return path if path.exists() else None

    def cached_manifest(self, manifest_sha256: str) -> bytes | None:
        """A manifest that an unfinished transfer has kept."""
        for path in self._transfers.glob(f"*/{manifest_sha256}.json"):
            return path.read_bytes()
        return None

    def keep_manifest(self, manifest_sha256: str, text: bytes, *, object_sha256: str) -> Path:
        """Keep a manifest beside what is fetched for it, so that a restart needs no network to go on."""
        folder = self._layout.transfer_dir(object_sha256)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{manifest_sha256}.json"
        if not path.exists():
            replace_file(path, text)
        return path

    def drop_transfer(self, object_sha256: str) -> None:
        """Remove what a transfer has left."""
        shutil.rmtree(self._layout.transfer_dir(object_sha256), ignore_errors=True)

    def point(self, pointer: ActivePointer) -> None:
        """Make this variant the active one of its model; in-process models follow."""
        replace_file(self._layout.active_pointer(pointer.model), pointer.model_dump_json().encode())

    def unpoint(self, model: str) -> None:
        """Nobody answers for this model."""
        path = self._layout.active_pointer(model)
        if path.exists():
            path.unlink()
            fsync_folder(path.parent)

    def unpoint_stale(self, active: Container[str]) -> None:
        """A crash may have come between the record and the pointer: nobody may follow one that leads nowhere.

        Args:
            active: the models that have an active variant.
        """
        for pointer in self.pointers():
            if pointer.model not in active or not (self._layout.root / pointer.variant_dir).is_dir():
                self.unpoint(pointer.model)

    def pointers(self) -> list[ActivePointer]:
        """The pointer of each model; one that can't be read is removed."""
        found = []
        for path in sorted(self._active.glob("*.json")):
            try:
                pointer = ActivePointer.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                path.unlink(missing_ok=True)
                continue
            if pointer.model == path.stem:
                found.append(pointer)
        return found

    def collect(self, *, keep_manifests: Iterable[str], keep_objects: Iterable[str] | None) -> None:
        """Remove every variant and transfer that is not named; `keep_objects` None keeps all transfers."""
        keep = set(keep_manifests)
        for folder in self._variants.iterdir():
            if folder.name not in keep and not folder.name.startswith(UNFINISHED_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)
        if keep_objects is None:
            return
        objects = set(keep_objects)
        for folder in self._transfers.iterdir():
            if folder.name not in objects:
                shutil.rmtree(folder, ignore_errors=True)

    def used_bytes(self, *, except_object: str | None = None) -> int:
        """Bytes that variants and transfers take on the disk."""
        skipped = self._layout.transfer_dir(except_object) if except_object is not None else None
        return sum(
            _disk_bytes(entry)
            for root in (self._variants, self._transfers)
            for folder in root.iterdir()
            if folder != skipped
            for entry in _files(folder)
        )

    def free_bytes(self) -> int:
        """Bytes that the file system has left."""
        stats = os.statvfs(self._layout.root)
        return stats.f_bavail * stats.f_frsize


def _disk_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:  # a process that unpacks has just renamed or removed its folder
        return 0


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.rglob("*") if path.is_file()]
    except OSError:
        return []
