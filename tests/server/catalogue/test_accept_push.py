"""Accepting a push, below HTTP: any bytes, and two pushes at the same moment."""

import hashlib
import io
import struct
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from server.catalogue.push import Upload, UploadedFile, accept_push, refuse_by_glance
from server.database.tables import jobs
from server.errors import ConflictError, DigestMismatchError, InvalidError
from server.schemas.catalogue import PushForm, Task

# The classes behind these fixtures live in a conftest, which a test can't import.
Registry = Any
Store = Any


def uploaded(path: Path, content: bytes) -> UploadedFile:
    path.write_bytes(content)
    return UploadedFile(path=path, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name in names:
            opened.writestr(zipfile.ZipInfo(name), b"x")
    return stream.getvalue()


def upload_in(folder: Path, *, metric: str = "top1") -> Upload:
    folder.mkdir(exist_ok=True)
    source = uploaded(folder / "source", archive("m/archive_format"))
    data = uploaded(folder / "data", archive("input.npy", "target.npy"))
    return Upload(source=source, data=data, train=None, form=PushForm(task=Task.CLASSIFICATION, metric=metric))


@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18]))
def test_glance_at_any_bytes_refuses_or_accepts(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, prefix: bytes
) -> None:
    folder = tmp_path_factory.mktemp("glance")
    good = upload_in(folder)
    bad = Upload(source=uploaded(folder / "any", prefix + content), data=good.data, train=None, form=good.form)
    with suppress(InvalidError):
        refuse_by_glance(bad)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(8), id="h5"),
        pytest.param(b"\x1c\0\0\0TFL3" + bytes(8), id="tflite"),
        pytest.param(b"\x08\x09\x12\x07pytorch", id="onnx"),
        pytest.param(b"\x1f\x8b\x08" + bytes(8), id="tar.gz"),
        pytest.param(bytes(257) + b"ustar\0", id="tar"),
        pytest.param(archive("config.json", "model.weights.h5", "metadata.json"), id="keras"),
        pytest.param(archive("saved/saved_model.pb", "saved/variables/variables.index"), id="saved-model"),
    ],
)
def test_glance_lets_every_format_pass_under_any_name(tmp_path: Path, content: bytes) -> None:
    good = upload_in(tmp_path / "good")
    source = uploaded(tmp_path / "model", content)
    refuse_by_glance(Upload(source=source, data=good.data, train=None, form=good.form))


def test_glance_at_a_directory_that_fills_the_file_refuses_it_unread(tmp_path: Path) -> None:
    directory_bytes = 64 << 20
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, directory_bytes, 4, 0)
    good = upload_in(tmp_path / "good")
    source = uploaded(tmp_path / "any", b"PK\x03\x04" + bytes(directory_bytes) + end)
    tracemalloc.start()
    with pytest.raises(InvalidError, match="bytes of names"):
        refuse_by_glance(Upload(source=source, data=good.data, train=None, form=good.form))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 << 20


def test_two_pushes_of_one_version_at_once_let_one_content_win(
    registry: Registry, object_store: Store, tmp_path: Path
) -> None:
    uploads = [upload_in(tmp_path / str(number), metric=f"hr@{number + 1}") for number in range(6)]

    def push(upload: Upload) -> str | None:
        try:
            return accept_push(registry.catalogue, object_store, ("net", "1"), upload, now=1.0).job_id
        except ConflictError:
            return None

    with ThreadPoolExecutor(6) as pool:
        accepted = [job_id for job_id in pool.map(push, uploads) if job_id]
    assert len(accepted) == 1
    with registry.catalogue.read() as connection:
        assert connection.execute(sa.select(jobs.c.job_id)).scalars().all() == accepted


def test_file_that_changes_on_its_way_is_not_registered(
    registry: Registry, object_store: Store, tmp_path: Path
) -> None:
    upload = upload_in(tmp_path / "u")
    upload.data.path.write_bytes(archive("input.npy", "other.npy"))
    with pytest.raises(DigestMismatchError):
        accept_push(registry.catalogue, object_store, ("net", "1"), upload, now=1.0)
    with registry.catalogue.read() as connection:
        assert connection.execute(sa.select(jobs)).all() == []
