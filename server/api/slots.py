"""How many pushes are received at once, and whether the disk has room for one: asked before a byte of it is read."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from server.errors import BusyError, StorageUnavailableError

MAX_UPLOADS: Final = 4  # at once, of one API process: each writes, hashes, and is copied to S3
RESERVE_BYTES: Final = 256 * 1024 * 1024  # of free space that no upload takes: the databases live on the same disk


class UploadSlots:
    """Counts the uploads of one API process; called on its event loop only."""

    def __init__(self, count: int = MAX_UPLOADS) -> None:
        self._count = count
        self._taken = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """One slot, given back afterwards.

        Raises:
            BusyError: none is free.
        """
        if self._taken >= self._count:
            raise BusyError(
                f"The registry is receiving {self._taken} pushes, all it takes at once: push again in a minute."
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


def check_room(folder: Path, *, claimed_bytes: int) -> None:
    """Whether the disk of a folder takes so many bytes more.

    Raises:
        StorageUnavailableError: it does not.
    """
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as exc:
        raise StorageUnavailableError(f"The registry's data folder can't be read ({exc.strerror}).") from exc
    if free_bytes < claimed_bytes + RESERVE_BYTES:
        raise StorageUnavailableError(
            f"The push has {claimed_bytes} bytes, but the registry's disk has {free_bytes} free, of which "
            f"{RESERVE_BYTES} stay reserved: make room in its data folder, then push again."
        )
