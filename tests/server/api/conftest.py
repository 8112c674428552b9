"""What the stories of the API are told with: a client, a real exported model, real data."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from server.database.connect import Database
from server.database.tables import job_runs
from server.settings import RegistrySettings


class Running(Protocol):
    """What the fixture `registry` gives."""

    @property
    def url(self) -> str: ...
    @property
    def settings(self) -> RegistrySettings: ...
    @property
    def catalogue(self) -> Database: ...
    @property
    def login(self) -> dict[str, str]: ...


@pytest.fixture
def http(registry: Running) -> Iterator[httpx.Client]:
    """Plain HTTP as an admin, to say what the typed client would never say."""
    with httpx.Client(base_url=registry.url, timeout=20, headers=registry.login) as client:
        yield client


@pytest.fixture
def profile() -> Callable[..., dict[str, Any]]:
    """A valid profile document, with changes."""

    def make(**changes: object) -> dict[str, Any]:
        document: dict[str, Any] = {
            "name": "pi-x",
            "arch": "aarch64",
            "cpu": {"model": "Cortex-A72", "cores": 4},
            "ram_bytes": 1 << 30,
            "storage_bytes": 1 << 28,
            "runtimes": ["litert"],
        }
        return {**document, **changes}

    return make


@pytest.fixture
def pt2() -> bytes:
    """A small archive with the entries of torch.export; a glance can't tell it from a real one."""
    return archive({"m/archive_format": b"pt2", "m/models/model.json": b"{}", "m/data/weights/weight_0": b"\0" * 64})


@pytest.fixture
def npz() -> bytes:
    """Evaluation data."""
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros((4, 2), np.float32), y=np.zeros(4, np.int64))
    return stream.getvalue()


def archive(entries: dict[str, bytes]) -> bytes:
    """A zip of these entries, the same bytes each time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in entries.items():
            opened.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


@pytest.fixture
def push(http: httpx.Client, pt2: bytes, npz: bytes) -> Callable[..., httpx.Response]:
    """Push a version over plain HTTP, with parts replaced."""

    def send(model: str = "net", version: str = "1", **parts: Any) -> httpx.Response:  # noqa: ANN401
        form = parts.get("form", {"task": "classification", "metric": "top1"})
        text = form if isinstance(form, str) else json.dumps(form)
        files = {"source": parts.get("source", pt2), "data": parts.get("data", npz), "train": parts.get("train")}
        sent = {name: (name, content) for name, content in files.items() if content is not None}
        return http.post(f"/v1/models/{model}/versions/{version}", data={"form": text}, files=sent)

    return send


@pytest.fixture
def finish_job(registry: Running) -> Callable[..., None]:
    """Write what a worker writes at the end of a job."""

    def finish(job_id: str, error: dict[str, str] | None = None) -> None:
        row = {
            "job_id": job_id,
            "state": "failed" if error else "done",
            "worker": "test",
            "attempt": 1,
            "lease_until": 0.0,
            "started_at": 1.0,
            "finished_at": 2.0,
            "progress": {"stage": "done", "done": 1, "of": 1},
            "error": error,
        }
        with registry.catalogue.write() as connection:
            connection.execute(sa.insert(job_runs).values(row))

    return finish


@pytest.fixture
def uploads(registry: Running) -> Path:
    """Where uploads wait; empty when none is under way."""
    folder: Path = registry.settings.data_dir / "uploads"
    return folder
