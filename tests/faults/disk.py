"""A disk that forgets: what a power cut may leave of calls that were recorded. Pure.

What POSIX promises and no more: a file's content is safe after an fsync of that file, a name after an fsync of its
folder. Until then each may be there or not, whatever came first.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tests.faults.record import CONTENTS, SYNCS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.record import Call

FORGOTTEN = ("-shm",)  # mapped memory of SQLite, which is made anew from the log
SPARED = ("run", "log")  # sockets are of no use after a reboot; lines of the log may be lost, and are never fsynced


class Cut(StrEnum):
    """What is lost of all that was not synced."""

    NOTHING = "nothing"  # as by kill -9
    ALL = "names and content"
    CONTENT = "content"  # names are there: a renamed file is empty
    NAMES = "names"  # a synced file is there under its old name
    SOME = "some of the writes"  # by chance, in any order


@dataclass(slots=True, eq=False)
class _File:
    now: bytearray = field(default_factory=bytearray)
    kept: bytes = b""
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        self.unsynced.append((offset, data))
        _put(self.now, offset, data)

    def resize(self, size: int) -> None:
        del self.now[size:]
        self.now.extend(bytes(size - len(self.now)))

    def sync(self) -> None:
        self.kept = bytes(self.now)
        self.unsynced.clear()

    def left(self, cut: Cut, chance: random.Random) -> bytes:
        if cut in (Cut.NOTHING, Cut.NAMES):
            return bytes(self.now)
        content = bytearray(self.kept)
        if cut is Cut.SOME:
            for offset, data in self.unsynced:
                if chance.random() < 0.5:  # a coin
                    _put(content, offset, data)
        return bytes(content)


@dataclass(slots=True, eq=False)
class _Folder:
    now: dict[str, _File | _Folder] = field(default_factory=dict)
    kept: dict[str, _File | _Folder] = field(default_factory=dict)


class Disk:
    """A folder, and what its process did to it since.

    Args:
        beginning: the folder as it was at the beginning; all of it is safe.
        root: where the recorded process had it.
    """

    def __init__(self, beginning: Path, *, root: Path) -> None:
        self._root = str(root)
        self._top = _read(beginning)
        self._ends: dict[tuple[int, str], int] = {}  # where the next `write` goes

    def apply(self, call: Call) -> bool:
        """Do what the process did; whether it concerned this folder."""
        parts = self._parts(call.path)
        if parts is None or (parts and parts[0] in SPARED) or call.path.endswith(FORGOTTEN):
            return False
        if call.name == "openat":
            return self._open(call, parts)
        if call.name in SYNCS:
            self._sync(parts)
        elif call.name in CONTENTS:
            self._change_content(call, self._file(parts))
        else:
            self._change_names(call, parts)
        return True

    def left(self, cut: Cut, *, seed: int) -> dict[str, bytes | None]:
        """What is there after a cut: contents by relative path, None for a folder."""
        return dict(_left(self._top, "", cut, random.Random(seed)))

    def _change_content(self, call: Call, file: _File) -> None:
        match call.name:
            case "write":
                offset = self._ends.get((call.task, call.path), 0)
                file.write(offset, call.data)
                self._ends[call.task, call.path] = offset + len(call.data)
            case "pwrite64":
                file.write(call.numbers[-1], call.data)
            case "ftruncate":
                file.resize(call.numbers[-1])
            case "fallocate":
                file.resize(max(len(file.now), sum(call.numbers[-2:])))

    def _change_names(self, call: Call, parts: list[str]) -> None:
        names = self._folder(parts[:-1]).now
        match call.name:
            case "mkdir" | "mkdirat":
                names.setdefault(parts[-1], _Folder())
            case "unlink" | "unlinkat" | "rmdir":
                names.pop(parts[-1], None)
            case _:
                target = self._parts(call.target)
                if target is None:
                    raise ValueError(f"{call.path} was moved out of the folder")
                self._folder(target[:-1]).now[target[-1]] = names.pop(parts[-1])

    def _open(self, call: Call, parts: list[str]) -> bool:
        self._ends[call.task, call.path] = 0
        if "O_CREAT" not in call.flags and "O_TRUNC" not in call.flags:
            return False
        folder = self._folder(parts[:-1])
        fresh = parts[-1] not in folder.now
        if fresh:
            folder.now[parts[-1]] = _File()
        if "O_TRUNC" in call.flags:
            self._file(parts).resize(0)
        return fresh

    def _sync(self, parts: list[str]) -> None:
        node = self._node(parts)
        if isinstance(node, _Folder):
            node.kept = dict(node.now)
        else:
            node.sync()

    def _parts(self, path: str) -> list[str] | None:
        if path != self._root and not path.startswith(self._root + "/"):
            return None
        return [part for part in path[len(self._root) :].split("/") if part]

    def _node(self, parts: list[str]) -> _File | _Folder:
        node: _File | _Folder = self._top
        for part in parts:
            if not isinstance(node, _Folder):
                raise NotADirectoryError("/".join(parts))
            node = node.now[part]
        return node

    def _file(self, parts: list[str]) -> _File:
        node = self._node(parts)
        if isinstance(node, _Folder):
            raise IsADirectoryError("/".join(parts))
        return node

    def _folder(self, parts: list[str]) -> _Folder:
        node = self._node(parts)
        if isinstance(node, _File):
            raise NotADirectoryError("/".join(parts))
        return node


def lay_out(left: dict[str, bytes | None], root: Path) -> None:
    """Make a folder of what a cut has left."""
    root.mkdir()
    for name, content in left.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _read(path: Path) -> _Folder:
    folder = _Folder()
    for entry in path.iterdir():
        if entry.name in SPARED or entry.name.endswith(FORGOTTEN):
            continue
        if entry.is_dir():
            folder.now[entry.name] = _read(entry)
        else:
            content = entry.read_bytes()
            folder.now[entry.name] = _File(bytearray(content), content)
    folder.kept = dict(folder.now)
    return folder


def _left(folder: _Folder, prefix: str, cut: Cut, chance: random.Random) -> Iterator[tuple[str, bytes | None]]:
    names = folder.kept if cut in (Cut.ALL, Cut.NAMES) else folder.now
    for name, node in sorted(names.items()):
        if isinstance(node, _Folder):
            yield prefix + name, None
            yield from _left(node, f"{prefix}{name}/", cut, chance)
        else:
            yield prefix + name, node.left(cut, chance)
