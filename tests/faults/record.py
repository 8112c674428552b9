"""What a process did to its folder, as strace has written it down: calls with their data, in order. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAMES = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat")
CONTENTS = ("write", "pwrite64", "ftruncate", "fallocate")
SYNCS = ("fsync", "fdatasync")
CHANGING = (*CONTENTS, *SYNCS, *NAMES)  # the calls that can be refused, or be the last
RECORDED = ("openat", *CHANGING)

_WHOLE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"^-?\w+<([^>]*)>")


@dataclass(frozen=True, slots=True)
class Call:
    """One call that succeeded.

    Attributes:
        task: the thread that made it.
        name: of the system call.
        ordinal: the how manieth of that name in its thread, from 1, those on other files included.
        path: of its file; of a rename the old one.
        target: of a rename the new path, else empty.
        data: what was written.
        numbers: the arguments that are plain numbers, in order.
        flags: the arguments as strace prints them, for the flags of an `openat`.
    """

    task: int
    name: str
    ordinal: int
    path: str
    target: str
    data: bytes
    numbers: tuple[int, ...]
    flags: str


def calls(lines: Iterable[str]) -> Iterator[Call]:
    """Read `strace -f -y -xx -o` output; failed calls count for ordinals and are left out."""
    counted: dict[tuple[int, str], int] = {}
    for line in _joined(lines):
        found = _WHOLE.match(line)
        if found is None:
            continue
        task, name, arguments, result = int(found[1]), found[2], found[3], int(found[4])
        counted[task, name] = ordinal = counted.get((task, name), 0) + 1
        if result >= 0:
            yield _call(task, name, ordinal, arguments)


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Calls that another thread's interrupted, in one line, at the place where they ended."""
    begun: dict[str, str] = {}
    for text in lines:
        line = text.rstrip("\n")
        if started := _BEGUN.match(line):
            begun[started[1]] = f"{started[1]} {started[2]}({started[3]}"
        elif (resumed := _RESUMED.match(line)) and resumed[1] in begun:
            yield begun.pop(resumed[1]) + resumed[2]
        else:
            yield line


def _call(task: int, name: str, ordinal: int, arguments: str) -> Call:
    texts = [_decoded(text) for text in _TEXT.findall(arguments)]
    descriptor = _DESCRIPTOR.match(arguments)
    bare = _TEXT.sub("", arguments)
    numbers = tuple(int(part) for part in bare.split(", ") if re.fullmatch(r"\d+", part))
    if name in CONTENTS or name in SYNCS:
        path = "" if descriptor is None else _decoded(descriptor[1]).decode(errors="replace")
        data = texts[0] if texts else b""
        return Call(task, name, ordinal, path, "", data, numbers, "")
    paths = [_absolute(text.decode(errors="replace"), arguments) for text in texts]
    return Call(task, name, ordinal, paths[0], paths[1] if len(paths) > 1 else "", b"", numbers, bare)


def _absolute(path: str, arguments: str) -> str:
    """A path beside an open folder, as `unlinkat(3</data>, "name")` has it; a rename never does here."""
    beside = _DESCRIPTOR.match(arguments)
    return path if path.startswith("/") or beside is None else f"{_decoded(beside[1]).decode()}/{path}"


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()
