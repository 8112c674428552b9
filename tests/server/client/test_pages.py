"""The files of a report on this machine's disk: what came is checked before anything is written."""

import io
import zipfile
from pathlib import Path

import pytest

from server.client.errors import RegistryClientError
from server.client.pages import require_writable, unpack_pages


def archive(*names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as opened:
        for name in names:
            opened.writestr(name, f"content of {name}")
    return held.getvalue()


def test_pages_are_written_into_a_folder_that_is_made(tmp_path: Path) -> None:
    page = unpack_pages(archive("report.html", "pareto.svg"), tmp_path / "a" / "b")
    assert page == tmp_path / "a" / "b" / "report.html"
    assert page.read_text() == "content of report.html"
    assert (page.parent / "pareto.svg").exists()


@pytest.mark.parametrize("name", ["../report.html", "/etc/report.html", "run.sh", "a/b.svg", ".html"])
def test_archive_with_a_foreign_file_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(RegistryClientError, match="holds files that no report has"):
        unpack_pages(archive("report.html", name), tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_archive_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RegistryClientError, match="is no report"):
        unpack_pages(b"PK", tmp_path)


def test_folder_that_cannot_be_is_told_before_anything_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryClientError, match=r"can't be written: .*file is no folder; choose another one"):
        require_writable(tmp_path / "file" / "below")
    require_writable(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()
