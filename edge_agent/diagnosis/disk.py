"""The agent's files as they lie there, read only: an agent may be at work on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import urllib.parse
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edge_agent.protocol.manifest import VariantManifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.layout import Layout

_CHUNK_BYTES = 1 << 20


def ledger(layout: Layout) -> dict[str, Any]:
    """Deployments as they are remembered, and the wanted state that was accepted."""
    with closing(_opened(layout.state_db)) as connection:
        return {
            "accepted": next(iter(_documents(connection, "SELECT value FROM facts WHERE name = 'accepted'")), None),
            "records": list(_documents(connection, "SELECT record FROM deployments ORDER BY deployment_id")),
            "slots": list(_documents(connection, "SELECT record FROM slots ORDER BY model")),
        }


def spooled(layout: Layout) -> dict[str, Any]:
    """Telemetry that waits, where no agent runs that would know; what it had dropped was in its memory."""
    with closing(_opened(layout.spool_db)) as connection:
        count, size_bytes = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM reports").fetchone()
    return {"reports": count, "size_bytes": size_bytes}


def variants(layout: Layout) -> dict[str, Any]:
    """Each installed variant: what its files are, and what they should be."""
    folder = layout.variant_dir("x").parent
    return {path.name: _variant(path) for path in _folders(folder)}


def transfers(layout: Layout) -> dict[str, Any]:
    """Each object that is being fetched: what it takes on the disk, and the manifests that want it."""
    found = {}
    for path in _folders(layout.transfer_dir("x").parent):
        data = path / "data"
        stats = data.stat() if data.exists() else None
        found[path.name] = {
            "size_bytes": None if stats is None else stats.st_size,
            "allocated_bytes": None if stats is None else stats.st_blocks * 512,
            "changed_at": None if stats is None else stats.st_mtime,
            "manifests": sorted(one.stem for one in path.glob("*.json")),
        }
    return {"objects": found}


def _variant(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / "manifest.json").read_bytes()
        manifest = VariantManifest.model_validate_json(text)
    except (OSError, ValidationError) as exc:
        return {"error": f"its manifest can't be read: {type(exc).__name__}"}
    return {
        "model": manifest.model,
        "version": manifest.version,
        "variant_id": manifest.variant_id,
        "recipe": manifest.recipe,
        "runtime": manifest.runtime,
        "manifest_right": hashlib.sha256(text).hexdigest() == folder.name,
        "files": {file.role: _file(folder / file.role, file.size_bytes, file.sha256) for file in manifest.files},
    }


def _file(path: Path, size_bytes: int, sha256: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            digest, found_bytes = hashlib.sha256(), 0
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                found_bytes += len(chunk)
    except OSError as exc:
        return {"right": False, "error": exc.strerror}
    found = digest.hexdigest()
    right = found == sha256 and found_bytes == size_bytes
    wanted = {} if right else {"wanted_sha256": sha256, "wanted_bytes": size_bytes}
    return {"right": right, "size_bytes": found_bytes, "sha256": found, **wanted}


def _folders(folder: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def _opened(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not there: no agent has run here")
    return sqlite3.connect(f"file:{urllib.parse.quote(str(path))}?mode=ro", uri=True, timeout=5.0)


def _documents(connection: sqlite3.Connection, query: str) -> Iterator[Any]:
    for (text,) in connection.execute(query):
        try:
            yield json.loads(text)
        except ValueError:
            yield {"error": "this row is no JSON"}
