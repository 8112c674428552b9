"""`tooling/transcript.py` on small documents."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = """# Two steps

```sh
WORD=fresh
sleep 30 &
```

Nothing is printed above, so this block stays a question:

```sh
echo "$WORD  "; echo and errors >&2
```

```text
stale
```

```text
no output: stays
```
"""


def transcribe(path: Path, *options: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tooling" / "transcript.py"), str(path), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "steps.md"
    path.write_text(DOCUMENT)
    return path


def test_transcript_of_a_document_replaces_the_outputs_and_nothing_else(document: Path) -> None:
    assert transcribe(document).returncode == 0
    assert document.read_text() == DOCUMENT.replace("stale", "fresh\nand errors")


def test_transcript_with_a_command_that_fails_names_it_and_leaves_the_document(document: Path) -> None:
    document.write_text(broken := DOCUMENT.replace("WORD=fresh", "echo before; false"))
    done = transcribe(document)
    assert done.returncode == 1
    assert "exit code 1 after:\necho before; false" in done.stderr
    assert document.read_text() == broken


def test_transcript_that_only_checks_writes_nothing(document: Path) -> None:
    assert transcribe(document, "--check").returncode == 0
    assert document.read_text() == DOCUMENT


def test_transcript_that_only_checks_runs_the_commands_changed_as_it_is_told(document: Path) -> None:
    document.write_text(DOCUMENT.replace("WORD=fresh", "false\ntest fresh = other"))
    changes = ("--replace", "fresh=other", "--leave-out", "false")
    assert transcribe(document, "--check").returncode == 1
    assert transcribe(document, "--check", *changes[:2]).returncode == 1
    assert transcribe(document, "--check", *changes).returncode == 0
    assert "add --check" in transcribe(document, *changes).stderr


@pytest.mark.parametrize("option", [("--replace", "/tmp/elsewhere=/tmp/x"), ("--leave-out", "make clean")])
def test_transcript_told_to_change_what_is_not_there_runs_nothing(document: Path, option: tuple[str, str]) -> None:
    document.write_text(DOCUMENT.replace("WORD=fresh", f"touch {document.parent / 'ran'}"))
    done = transcribe(document, "--check", *option)
    assert done.returncode == 2
    assert "no command of" in done.stderr
    assert not (document.parent / "ran").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tutorial_every_command_works_in_a_folder_and_on_a_port_of_its_own() -> None:
    folder = Path(tempfile.mkdtemp(prefix="shoal-tutorial-"))  # short, as Unix sockets want it
    try:
        changes = ("--replace", f"/tmp/shoal-tutorial={folder}", "--replace", f"18600={free_port()}")
        done = transcribe(
            ROOT / "docs" / "tutorial.md", "--check", *changes, "--leave-out", "make setup", timeout_s=1100
        )
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        shutil.rmtree(folder)
