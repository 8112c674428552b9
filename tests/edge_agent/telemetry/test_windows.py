"""Each window reaches the spool exactly once, whoever is killed between which two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.runner.control import Window
from edge_agent.runner.journal import Journal, report_of
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.windows import Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.protocol.messages import TelemetryReport

ABOUT = {"model": "m", "version": "1", "variant_id": "v", "deployment_id": "d1"}


def unchanged(report: TelemetryReport) -> TelemetryReport:
    return report


@pytest.fixture
def open_spool(tmp_path: Path) -> Iterator[Callable[[], Spool]]:
    opened: list[Spool] = []

    def open_it() -> Spool:
        opened.append(Spool(tmp_path / "spool.db", limit_bytes=1 << 20, limit_age_s=1e9))
        return opened[-1]

    yield open_it
    for spool in opened:
        spool.close()


def written(folder: Path) -> Window:
    """A window as a runner leaves it: its file, and the message that may or may not have been sent."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, ABOUT)
    journal.observed(samples=5, queue_ms=0, preprocess_ms=0, invoke_ms=1)
    name = journal.cut()
    assert name is not None
    report = report_of((folder / name).read_bytes())
    assert report is not None
    return Window(report=report, journal=name)


def test_window_that_was_sent_is_kept_and_its_file_removed(tmp_path: Path, open_spool: Callable[[], Spool]) -> None:
    spool = open_spool()
    windows = Windows(tmp_path / "counted", spool)
    windows.take(written(tmp_path / "counted"))
    windows.look(0.0)
    windows.keep(unchanged, unix_s=2e9)
    assert spool.count == 1
    assert list((tmp_path / "counted").iterdir()) == []


def test_window_whose_runner_was_killed_is_made_from_its_file(tmp_path: Path, open_spool: Callable[[], Spool]) -> None:
    spool = open_spool()
    window = written(tmp_path / "counted")  # its lock went with the object that held it
    windows = Windows(tmp_path / "counted", spool)
    windows.look(0.0)
    windows.take(window)  # the message was still in the socket
    windows.keep(unchanged, unix_s=2e9)
    windows.take(window)
    windows.keep(unchanged, unix_s=2e9)
    assert spool.count == 1
    assert list((tmp_path / "counted").iterdir()) == []


def test_supervisor_killed_between_commit_and_removal_does_not_count_again(
    tmp_path: Path, open_spool: Callable[[], Spool]
) -> None:
    window = written(tmp_path / "counted")
    first = open_spool()
    assert window.journal is not None
    first.add([window.report], unix_s=2e9, journals=[window.journal])
    second = open_spool()
    windows = Windows(tmp_path / "counted", second)
    windows.look(0.0)
    windows.keep(unchanged, unix_s=2e9)
    assert second.count == 1
    assert list((tmp_path / "counted").iterdir()) == []
