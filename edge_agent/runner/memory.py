"""Giving back what only starting has needed: machine code, and heap.

The first start after an installation compiles every module: that leaves 10 MB of free heap, which the C library keeps.
The kernel maps 16 pages around each one that is touched, and loading an interpreter touches all of a library once: a
quarter of an idle runner's memory is code that it does not run. The pages stay in the kernel's cache and come back, a
microsecond each, when something runs them. Linux only; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REGIONS = Path("/proc/self/smaps")
MADV_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)


def code_regions(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Address and length, in bytes, of the code that is mapped from files and that the files have all of.

    Args:
        lines: those of /proc/PID/smaps. A region with anonymous pages has been changed in memory (a loader that
            relocates code, a debugger): dropping those would bring back what the file says.
    """
    region = None
    for line in lines:
        field, *rest = line.split()
        if not field.endswith(":"):
            permissions, _, _, inode = rest[:4]
            first, end = (int(address, 16) for address in field.split("-"))
            region = (first, end - first) if permissions == "r-xp" and inode != "0" else None
        elif field == "Anonymous:" and rest[0] == "0" and region is not None:
            yield region


def give_back() -> None:
    """Return free heap to the kernel and unmap the code of this process; what runs next is mapped again."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(0)
    if MADV_DONTNEED is None or not REGIONS.exists():
        return
    madvise = library.madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for address, length in list(code_regions(REGIONS.read_text().splitlines())):
        madvise(address, length, MADV_DONTNEED)
