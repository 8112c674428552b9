import os
from pathlib import Path

from server.retention.cache import unused_files


def keep(folder: Path, name: str, *, used_at: float, size_bytes: int = 10) -> Path:
    path = folder / name
    path.write_bytes(b"x" * size_bytes)
    os.utime(path, (used_at, used_at))
    return path


def names(folder: Path, *, older_than: float = 0.0, limit_bytes: int = 1000) -> list[str]:
    return [file.path.name for file in unused_files(folder, older_than=older_than, limit_bytes=limit_bytes)]


def test_unused_files_are_those_that_nobody_read_for_long(tmp_path: Path) -> None:
    keep(tmp_path, "old", used_at=100)
    keep(tmp_path, "new", used_at=200)
    read = keep(tmp_path, "written long ago and read since", used_at=50)
    os.utime(read, (300, 50))
    assert names(tmp_path, older_than=150) == ["old"]


def test_unused_files_beyond_the_limit_are_the_least_recently_used(tmp_path: Path) -> None:
    for number in range(5):
        keep(tmp_path, f"f{number}", used_at=100 + number)
    assert names(tmp_path, limit_bytes=50) == []
    assert names(tmp_path, limit_bytes=49) == ["f0"]
    assert names(tmp_path, limit_bytes=0) == ["f0", "f1", "f2", "f3", "f4"]


def test_unused_files_of_no_folder_or_of_links_are_none(tmp_path: Path) -> None:
    assert names(tmp_path / "nothing") == []
    outside = keep(tmp_path, "outside", used_at=1)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "link").symlink_to(outside)
    assert names(tmp_path / "cache", older_than=1e12, limit_bytes=0) == []
