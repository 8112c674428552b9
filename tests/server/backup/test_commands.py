"""The command line: into the embedded store and out of it again without an `up`, and what is wrong in a sentence."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from server.backup.document import DOCUMENT_NAME
from server.cli.app import app

if TYPE_CHECKING:
    from pathlib import Path


def said(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"NO_COLOR": "1"})
    return result.exit_code, result.stdout, result.stderr


def test_backup_is_restored_into_an_empty_folder_and_backed_up_from_there(backup: Path, tmp_path: Path) -> None:
    code, out, err = said("restore", backup, "--data-dir", tmp_path / "data")
    assert (code, err) == (0, "")
    assert f"edge-registry up --data-dir {tmp_path / 'data'} --host registry.example" in out
    code, out, err = said("backup", tmp_path / "again", "--data-dir", tmp_path / "data", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["objects"], document["missing_objects"]) == (4, [])
    assert time.time() - document["taken_at"] < 3600
    assert said("backup", tmp_path / "again", "--check")[0] == 0
    for wrong in (said("restore", backup, "--data-dir", tmp_path / "data"), said("backup", tmp_path / "again")):
        assert (wrong[0], "is not empty" in wrong[2], wrong[2].count("\n")) == (1, True, 1)


def test_what_is_no_registry_and_what_is_no_backup_is_said_in_a_sentence(backup: Path, tmp_path: Path) -> None:
    code, _, err = said("backup", tmp_path / "new", "--data-dir", tmp_path / "nobody")
    assert (code, err.count("\n")) == (2, 1)
    assert "There are no objects in" in err
    (backup / DOCUMENT_NAME).unlink()
    for arguments in (("restore", backup, "--data-dir", tmp_path / "other"), ("backup", backup, "--check")):
        code, _, err = said(*arguments)
        assert (code, "was cut off" in err) == (1, True)
    assert not (tmp_path / "other").exists()
