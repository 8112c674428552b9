"""A push: cheap refusals first, then the bytes into the store, then one row that asks for the inspection.

In this order nothing is half registered: a crash or an S3 that is down leaves at most an object that no row names.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from server.catalogue.jobs import WantedJob, enqueue, standing_job
from server.errors import ConflictError, DigestMismatchError, InvalidError
from server.schemas.catalogue import PushAccepted, PushForm
from server.schemas.work import InspectWork, JobKind, StoredFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import sqlalchemy as sa

    from server.database.connect import Database
    from server.storage import ObjectStore

MAX_DIRECTORY_BYTES: Final = 4 * 1024 * 1024  # 20,000 entries of torch need 2.5 MiB
MODEL_ADVICE: Final = (
    "push a torch.export archive (.pt2), .onnx, .keras, .h5, a float .tflite, or a SavedModel folder as .zip or .tar"
)
DATA_ADVICE: Final = "save one with numpy.savez('data.npz', input=..., target=...)"
_HEAD_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A part of a push on this machine's disk."""

    path: Path
    sha256: str
    size_bytes: int

    def described(self) -> StoredFile:
        """As it stands in the job."""
        return StoredFile(sha256=self.sha256, size_bytes=self.size_bytes)


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent."""

    source: UploadedFile
    data: UploadedFile
    train: UploadedFile | None
    form: PushForm

    def files(self) -> tuple[UploadedFile, ...]:
        """Those that are there."""
        return tuple(file for file in (self.source, self.data, self.train) if file is not None)


def accept_push(
    database: Database, store: ObjectStore, name: tuple[str, str], upload: Upload, *, now: float
) -> PushAccepted:
    """Store the files of MODEL, VERSION and ask for their inspection; the same push again gives the same job.

    Raises:
        InvalidError: a file is not what it should be, as far as a glance can tell.
        ConflictError: the version exists with other content, or other content is being inspected.
        StorageUnavailableError: S3 is down; nothing is registered.
    """
    refuse_by_glance(upload)
    work = InspectWork(
        source=upload.source.described(),
        data=upload.data.described(),
        train=upload.train.described() if upload.train else None,
        form=upload.form,
    )
    with database.read() as connection:
        _refuse_other_content(connection, name, work)
    for file in upload.files():
        put(store, file)
    with database.write() as connection:
        enqueued = enqueue(connection, _wanted(name, work), now=now)
        _refuse_if_other(enqueued.request, name, work)
    return PushAccepted(model=name[0], version=name[1], job_id=enqueued.job.job_id)


def put(store: ObjectStore, file: UploadedFile) -> None:
    """Store a file that was sent.

    Raises:
        DigestMismatchError: it changed since it was received.
        StorageUnavailableError: S3 is down.
    """
    stored = store.put_file(file.path)
    if stored.sha256 != file.sha256:
        raise DigestMismatchError(expected_sha256=file.sha256, actual_sha256=stored.sha256)


def refuse_by_glance(upload: Upload) -> None:
    """Refuse what cannot be a model or data, before a byte is stored; the inspection looks closer.

    Raises:
        InvalidError: one sentence with the file and what it should have been.
    """
    _refuse_no_model(upload.source)
    for kind, file in (("data", upload.data), ("train", upload.train)):
        if file is not None:
            refuse_no_data(file, kind)


def refuse_no_data(file: UploadedFile, kind: str) -> None:
    """Refuse what cannot be an `.npz`; `kind`: what the file was sent as.

    Raises:
        InvalidError: it is none.
    """
    names = _entries(file, kind, DATA_ADVICE)
    if not names or not all(entry.endswith(".npy") for entry in names):
        raise InvalidError(f"The {kind} file is a zip archive, but no .npz of numpy: {DATA_ADVICE}.")


def _refuse_no_model(file: UploadedFile) -> None:
    with file.path.open("rb") as stream:
        if _is_single_file(stream.read(_HEAD_BYTES)):
            return
    names = _entries(file, "model", MODEL_ADVICE)
    marks = ("archive_format", "serialized_exported_program.json", "saved_model.pb")
    if "config.json" not in names and not any(entry.endswith(marks) for entry in names):
        raise InvalidError(
            "The model file is a zip archive, but no torch.export archive, Keras model or SavedModel: save it with "
            "torch.export.save(program, 'model.pt2'), not with torch.save, or with model.save('model.keras')."
        )


def _is_single_file(head: bytes) -> bool:
    """Whether this is the beginning of a model that is no zip archive: HDF5, LiteRT, gzip, tar or ONNX."""
    is_onnx = head[:1] == b"\x08" and b"\x01" <= head[1:2] <= b"\x40"  # its first field is a small version
    return (
        is_onnx
        or head.startswith((b"\x89HDF\r\n\x1a\n", b"\x1f\x8b"))
        or head[4:8] == b"TFL3"
        or head[257:262] == b"ustar"
    )


class _DirectoryTooLargeError(Exception):
    """Listing the entries would take memory out of proportion."""


class _ArchiveEnd(io.FileIO):
    """The file as `zipfile` reads its directory: in one piece, as large as the upload claims, unless this refuses."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most MAX_DIRECTORY_BYTES; `zipfile` reads the last bytes of the file without saying how many."""
        if size is None or size < 0:
            size = MAX_DIRECTORY_BYTES
        if size > MAX_DIRECTORY_BYTES:
            raise _DirectoryTooLargeError
        return super().read(size) or b""


def _entries(file: UploadedFile, kind: str, advice: str) -> list[str]:
    if file.size_bytes == 0:
        raise InvalidError(f"The {kind} file is empty: {advice}.")
    try:
        with _ArchiveEnd(file.path) as end, zipfile.ZipFile(end) as archive:
            return archive.namelist()
    except _DirectoryTooLargeError as exc:
        raise InvalidError(
            f"The {kind} file lists more than {MAX_DIRECTORY_BYTES} bytes of names, which no export has: {advice}."
        ) from exc
    # a hostile directory makes zipfile raise more than BadZipFile
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as exc:
        what = _what_is_it(file.path, kind)
        raise InvalidError(f"The {kind} file is {what}: {advice}.") from exc


def _what_is_it(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(b"\x80") and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "a pickle, which this registry never loads"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive that is truncated or damaged"
    return "in no format that is known here" if kind == "model" else "no zip archive"


def _wanted(name: tuple[str, str], work: InspectWork) -> WantedJob:
    # One identity for all contents: of two different pushes at the same moment only one can get the key.
    return WantedJob(JobKind.INSPECT, *name, identity="", request=work.model_dump(mode="json"))


def _refuse_other_content(connection: sa.Connection, name: tuple[str, str], work: InspectWork) -> None:
    standing = standing_job(connection, JobKind.INSPECT, *name)
    if standing is not None:
        _refuse_if_other(standing.request, name, work)


def _refuse_if_other(request: Mapping[str, object], name: tuple[str, str], work: InspectWork) -> None:
    if InspectWork.model_validate(request) != work:
        raise ConflictError(
            f"Version {name[1]} of model {name[0]} exists with other content, and versions never change: "
            "push this under a new version."
        )
