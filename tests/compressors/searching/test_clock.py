"""The seconds of a search outlive the process that spends them."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from compressors.searching.clock import stopwatch
from tests.compressors.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

SPENDER = """
import sys, time
from pathlib import Path
from compressors.searching.clock import stopwatch
with stopwatch(Path(sys.argv[1]), began=time.monotonic() - 100.0):
    while True:
        time.sleep(1)
"""


def test_seconds_of_a_run_that_was_killed_are_spent(tmp_path: Path) -> None:
    path = tmp_path / "search.seconds"
    process = subprocess.Popen([sys.executable, "-c", SPENDER, str(path)], cwd=REPOSITORY)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    with stopwatch(path, began=time.monotonic()) as spent:
        assert spent() > 100.0
    with stopwatch(path, began=time.monotonic() - 100.0) as spent:
        assert spent() > 200.0


@pytest.mark.parametrize("content", ["", "half of 1", "nan", "-5", "inf"])
def test_damaged_file_counts_as_nothing(content: str, tmp_path: Path) -> None:
    path = tmp_path / "search.seconds"
    path.write_text(content)
    with stopwatch(path, began=time.monotonic()) as spent:
        assert 0.0 <= spent() < 100.0
