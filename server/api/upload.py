"""A multipart body streamed to files: hashed as it arrives, never whole in memory, each part within its cap."""

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from server.api.ports import Ports
from server.api.slots import UploadSlots, check_room
from server.catalogue.push import UploadedFile
from server.errors import InvalidError, StorageUnavailableError, TooLargeError
from server.schemas.sentence import sentence

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only

UPLOADS: Final = "uploads"
MAX_FORM_BYTES: Final = 1024 * 1024
WRITE_BYTES: Final = 1024 * 1024
STALL_S: Final = 60.0
FORM: Final = "form"
BodyT = TypeVar("BodyT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a multipart body is made of: a form, and files."""

    what: str  # "A push"
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    expected: str  # a sentence's end

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that there may be."""
        return (*self.needed, *self.optional)


PUSH: Final = Parts(
    what="A push",
    needed=("source", "data"),
    optional=("train",),
    expected="expected are the parts form (JSON), source (the model), data (.npz) and, if you have it, train (.npz)",
)
REPORT: Final = Parts(
    what="A wish for a report",
    needed=(),
    optional=("shifted",),
    expected="expected are the parts form (JSON) and, if you have it, shifted (.npz)",
)


@dataclass(frozen=True, slots=True)
class Received:
    """What arrived."""

    form: bytes
    files: dict[str, UploadedFile]

    def parsed(self, kind: type[BodyT]) -> BodyT:
        """The form.

        Raises:
            InvalidError: it does not fit.
        """
        try:
            return kind.model_validate_json(self.form)
        except ValidationError as exc:
            raise InvalidError(sentence(exc.errors(include_url=False), subject="form")) from exc


@asynccontextmanager
async def receiving(request: Request, ports: Ports, parts: Parts) -> AsyncIterator[Received]:
    """The body of a request; its files are gone afterwards.

    Raises:
        InvalidError: it is not made of these parts, or ends too early.
        TooLargeError: it, or a part, is larger than allowed.
        StorageUnavailableError: the disk is full.
        BusyError: as many are received at once as may be.
    """
    max_file_bytes = ports.settings.max_upload_bytes
    claimed = request.headers.get("content-length", "")
    if claimed.isdigit() and int(claimed) > len(parts.files) * max_file_bytes + MAX_FORM_BYTES:
        raise TooLargeError(f"{parts.what} has {claimed} bytes; a file may have {max_file_bytes} (max_upload_bytes).")
    slots: UploadSlots = request.app.state.upload_slots
    check_room(ports.settings.data_dir, claimed_bytes=int(claimed) if claimed.isdigit() else 0)
    with slots.taken(), upload_folder(ports.settings.data_dir / UPLOADS) as folder:
        try:
            content_type = request.headers.get("content-type", "")
            received = await receive_upload(
                content_type, request.stream(), folder, parts, max_file_bytes=max_file_bytes
            )
        except ClientDisconnect as exc:
            raise InvalidError("The upload ended too early: send it again.") from exc
        yield received


@contextmanager
def upload_folder(root: Path) -> Iterator[Path]:
    """A folder for one upload, gone afterwards.

    Raises:
        StorageUnavailableError: the disk takes nothing.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(dir=root))
    except OSError as exc:
        raise _disk_error(exc) from exc
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def receive_upload(
    content_type: str,
    chunks: AsyncIterator[bytes],
    folder: Path,
    parts: Parts,
    *,
    max_file_bytes: int,
    stall_s: float = STALL_S,
) -> Received:
    """Read a body to its end.

    Raises:
        InvalidError: it is not made of these parts.
        TooLargeError: a part is larger than allowed.
        StorageUnavailableError: the disk is full.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidError(f"{parts.what} is sent as multipart/form-data: {parts.expected}.")
    sink = _Sink(folder=folder, parts=parts, max_file_bytes=max_file_bytes)
    buffer = bytearray()
    try:
        parser = MultipartParser(boundary, sink.callbacks())
        async for chunk in _without_stalls(chunks, stall_s):
            buffer += chunk
            if len(buffer) >= WRITE_BYTES:
                await run_in_threadpool(parser.write, bytes(buffer))
                buffer.clear()
        await run_in_threadpool(parser.write, bytes(buffer))
        parser.finalize()
    except FormParserError as exc:
        raise InvalidError(f"The multipart body is damaged ({exc}): {parts.expected}.") from exc
    except OSError as exc:
        raise _disk_error(exc) from exc
    finally:
        sink.close()
    if not sink.ended:
        raise InvalidError("The upload ended too early: send it again.")
    return sink.received()


async def _without_stalls(chunks: AsyncIterator[bytes], stall_s: float) -> AsyncIterator[bytes]:
    """Who holds a slot and sends nothing keeps others out of it."""
    while True:
        try:
            async with asyncio.timeout(stall_s):
                chunk = await anext(chunks, None)
        except TimeoutError as exc:
            raise InvalidError(f"The upload stalled for {stall_s:g} s: send it again.") from exc
        if chunk is None:
            return
        yield chunk


@dataclass(slots=True)
class _OpenFile:
    path: Path
    stream: IO[bytes]
    size_bytes: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


@dataclass(slots=True)
class _Sink:
    """Where the parser's events go."""

    folder: Path
    parts: Parts
    max_file_bytes: int
    files: dict[str, _OpenFile] = field(default_factory=dict)
    form: bytearray | None = None
    part: str = ""
    header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    disposition: bytes = b""
    ended: bool = False

    def callbacks(self) -> "MultipartCallbacks":
        """By the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self.header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self.header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def close(self) -> None:
        """Close what an early end left open."""
        for file in self.files.values():
            file.stream.close()

    def received(self) -> Received:
        """What arrived.

        Raises:
            InvalidError: a part is missing.
        """
        there = {*self.files, *([FORM] if self.form is not None else [])}
        for name in (FORM, *self.parts.needed):
            if name not in there:
                raise InvalidError(f"The part {name} is missing: {self.parts.expected}.")
        done = {
            name: UploadedFile(path=file.path, sha256=file.digest.hexdigest(), size_bytes=file.size_bytes)
            for name, file in self.files.items()
        }
        return Received(form=bytes(self.form or b""), files=done)

    def _begin(self) -> None:
        self.part, self.disposition = "", b""

    def _header_end(self) -> None:
        if bytes(self.header[0]).lower() == b"content-disposition":
            self.disposition = bytes(self.header[1])
        self.header[0].clear()
        self.header[1].clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self.disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name in self.files or (name == FORM and self.form is not None):
            raise InvalidError(f"The part {name} comes twice: {self.parts.expected}.")
        if name == FORM:
            self.form = bytearray()
        elif name in self.parts.files:
            path = self.folder / name
            self.files[name] = _OpenFile(path=path, stream=path.open("xb"))
        else:
            raise InvalidError(f"The part {name[:40]!r} is unknown: {self.parts.expected}.")
        self.part = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self.part == FORM and self.form is not None:
            if len(self.form) + len(piece) > MAX_FORM_BYTES:
                raise TooLargeError(f"The part form is larger than {MAX_FORM_BYTES} bytes.")
            self.form += piece
            return
        file = self.files[self.part]
        file.size_bytes += len(piece)
        if file.size_bytes > self.max_file_bytes:
            raise TooLargeError(
                f"The part {self.part} is larger than {self.max_file_bytes} bytes, which is this registry's "
                "max_upload_bytes."
            )
        file.stream.write(piece)
        file.digest.update(piece)

    def _part_end(self) -> None:
        if self.part in self.files:
            self.files[self.part].stream.close()

    def _end(self) -> None:
        self.ended = True


def _disk_error(exc: OSError) -> StorageUnavailableError:
    return StorageUnavailableError(
        f"The registry's disk can't take the upload ({exc.strerror}): make room in its data folder, then send it again."
    )
