"""The model of a disk that forgets, on calls made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.disk import Cut, Disk
from tests.faults.record import Call, calls

ROOT = Path("/device")


def call(name: str, path: str = "", target: str = "", *, data: bytes = b"", numbers: tuple[int, ...] = ()) -> Call:
    flags = "O_WRONLY|O_CREAT" if name == "openat" else ""
    return Call(1, name, 1, f"/device{path}", f"/device{target}" if target else "", data, numbers, flags)


REPLACED = {  # how `durable.replace_file` does it
    "open": call("openat", "/new"),
    "write": call("write", "/new", data=b"two"),
    "fsync": call("fsync", "/new"),
    "rename": call("rename", "/new", "/file"),
    "fsync folder": call("fsync"),
}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "file").write_bytes(b"one")
    return Disk(tmp_path, root=ROOT)


def left_after(disk: Disk, *without: str) -> dict[Cut, dict[str, bytes | None]]:
    for name, made in REPLACED.items():
        if name not in without:
            disk.apply(made)
    return {cut: disk.left(cut, seed=1) for cut in Cut}


def test_file_replaced_with_every_fsync_is_there_whatever_is_lost(disk: Disk) -> None:
    assert all(left == {"file": b"two"} for left in left_after(disk).values())


def test_file_renamed_without_its_fsync_is_empty(disk: Disk) -> None:
    left = left_after(disk, "fsync")
    assert left[Cut.CONTENT] == left[Cut.ALL] == {"file": b""}
    assert left[Cut.NOTHING] == {"file": b"two"}


def test_file_renamed_without_an_fsync_of_its_folder_is_the_old_one(disk: Disk) -> None:
    left = left_after(disk, "fsync folder")
    assert left[Cut.NAMES] == left[Cut.ALL] == {"file": b"one"}
    assert left[Cut.CONTENT] == {"file": b"two"}


def test_writes_in_place_may_be_lost_one_by_one(disk: Disk) -> None:
    for offset in range(8):
        disk.apply(call("pwrite64", "/file", data=b"x", numbers=(1, offset)))
    content = disk.left(Cut.SOME, seed=3)["file"]
    assert content not in (b"one", b"x" * 8)
    disk.apply(call("fdatasync", "/file"))
    assert disk.left(Cut.SOME, seed=3) == {"file": b"x" * 8}


def test_folder_moved_into_place_holds_what_was_synced_in_it(disk: Disk) -> None:
    for made in (
        call("mkdir", "/.new"),
        call("openat", "/.new/model"),
        call("write", "/.new/model", data=b"m"),
        call("fsync", "/.new/model"),
        call("rename", "/.new", "/v"),
        call("fsync"),
    ):
        disk.apply(made)
    assert disk.left(Cut.ALL, seed=1) == {"file": b"one", "v": None}  # the names in it were not synced
    disk.apply(call("fsync", "/v"))
    assert disk.left(Cut.ALL, seed=1) == {"file": b"one", "v": None, "v/model": b"m"}


def test_record_is_read_with_data_and_calls_that_were_interrupted() -> None:
    written = [
        r'7 write(3<\x2f\x64\x2f\x66>, "\x61\x62", 2 <unfinished ...>',
        r"8 fsync(4<\x2f\x64>) = -1 EIO (Input/output error) (INJECTED)",
        r"7 <... write resumed>) = 2",
        r"8 fsync(4<\x2f\x64>) = 0",
        r'8 unlinkat(4<\x2f\x64>, "\x66", 0) = 0',
        "7 +++ exited with 0 +++",
    ]
    found = [(c.task, c.name, c.ordinal, c.path, c.data) for c in calls(written)]
    assert found == [(7, "write", 1, "/d/f", b"ab"), (8, "fsync", 2, "/d", b""), (8, "unlinkat", 1, "/d/f", b"")]
