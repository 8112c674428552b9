"""`tooling/transcript.py` on small documents."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


def transcribe(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tooling" / "transcript.py"), str(path), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


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
