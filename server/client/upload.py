"""Files on their way to the registry: streamed, with progress."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

from server.client.errors import RegistryClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Progress = Callable[[int, int], None]


class CountedFile:
    """A file that tells how much of all files was read; httpx reads it in pieces."""

    def __init__(self, stream: IO[bytes], told: Callable[[int], None]) -> None:
        self._stream = stream
        self._told = told

    def read(self, size: int = -1) -> bytes:
        """The next piece."""
        piece = self._stream.read(size)
        self._told(len(piece))
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As a file."""
        return self._stream.tell()

    def fileno(self) -> int:
        """As a file: httpx asks for its size."""
        return self._stream.fileno()

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(1 << 16):
            yield piece


@contextmanager
def open_parts(
    paths: Mapping[str, Path], progress: Progress | None
) -> Iterator[dict[str, tuple[str, CountedFile, str]]]:
    """Open files as parts of a multipart body; `progress(sent, total)` hears of every piece.

    Raises:
        RegistryClientError: a file is missing or can't be read.
    """
    sent = 0
    total = 0

    def told(size_bytes: int) -> None:
        nonlocal sent
        sent += size_bytes
        if progress is not None:
            progress(min(sent, total), total)

    with ExitStack() as stack:
        parts = {}
        for name, path in paths.items():
            try:
                stream = stack.enter_context(path.open("rb"))
                total += path.stat().st_size
            except OSError as exc:
                raise RegistryClientError("no_file", f"The file {path} can't be read: {exc.strerror}.") from exc
            parts[name] = (path.name, CountedFile(stream, told), "application/octet-stream")
        yield parts
