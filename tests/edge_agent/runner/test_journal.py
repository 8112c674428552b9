from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.sketch import quantile_ms
from edge_agent.runner.journal import CAPACITY, SIZE_BYTES, Journal, is_held, report_of

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = {"model": "m", "version": "1", "variant_id": "v", "deployment_id": "d1"}
KILLED = """
import os, pathlib, signal, sys
from edge_agent.runner.journal import Journal
journal = Journal(pathlib.Path(sys.argv[1]), {"model": "m", "version": "1", "variant_id": "v", "deployment_id": "d1"})
for number in range(100):
    journal.observed(samples=3, queue_ms=0.1, preprocess_ms=0.2, invoke_ms=float(number + 1))
journal.failed({"bad_request": 2}, requests=2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_journal_of_a_killed_process_tells_all_that_it_counted(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=30)
    (path,) = tmp_path.iterdir()
    assert not is_held(path)
    report = report_of(path.read_bytes())
    assert report is not None
    assert (report.requests, report.inferences, report.errors) == (102, 300, {"bad_request": 2})
    assert (report.deployment_id, report.source) == ("d1", "http")
    assert report.invoke.count == 100
    assert quantile_ms(report.invoke, 0.5) == pytest.approx(50, rel=0.03)


def test_journal_is_held_while_its_process_lives_and_until_its_window_was_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ABOUT)
    assert journal.cut() is None
    journal.observed(samples=1, queue_ms=0, preprocess_ms=0, invoke_ms=1)
    name = journal.cut()
    assert name is not None
    assert is_held(tmp_path / name)
    (tmp_path / name).unlink()  # as the supervisor does
    journal.observed(samples=1, queue_ms=0, preprocess_ms=0, invoke_ms=1)
    assert journal.cut() != name
    assert len(journal._sent) == 1


def test_journal_that_is_full_still_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ABOUT)
    for _ in range(CAPACITY + 10):
        journal.observed(samples=1, queue_ms=0, preprocess_ms=0, invoke_ms=1)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size == SIZE_BYTES
    report = report_of(path.read_bytes())
    assert report is not None
    assert (report.inferences, report.invoke.count) == (CAPACITY + 10, CAPACITY)


def test_journal_without_a_folder_costs_no_request(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "missing", ABOUT)
    journal.observed(samples=1, queue_ms=0, preprocess_ms=0, invoke_ms=1)
    journal.failed({"x": 1}, requests=1)
    assert journal.cut() is None


@pytest.mark.parametrize("content", [b"", b"\0" * SIZE_BYTES, b"\xff" * SIZE_BYTES, b"{}" * 20_000])
def test_file_that_is_no_journal_tells_nothing(content: bytes) -> None:
    assert report_of(content) is None
