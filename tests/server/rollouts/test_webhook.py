"""The controller process and its webhook: rollouts go on whatever the receiver does, and a kill loses no decision."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from server.database import tables
from server.webhook.rules import SIGNATURE_HEADER, signature_of
from tests.server.hook import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server.conftest import S3Server
    from tests.server.rollouts.conftest import Registry

SECRET = "very-secret"


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.stop()


def wait_for(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def running(
    make_registry: Callable[[int], Registry], s3_server: S3Server, tmp_path: Path, hook: Hook
) -> tuple[Registry, Callable[[], subprocess.Popen[bytes]], Path]:
    """A registry, its controller to be started, and that one's log."""
    registry = make_registry(1)
    environment = os.environ | {
        "SHOAL_DATA_DIR": str(tmp_path),
        "SHOAL_DATABASE_URL": str(registry.database.url),
        "SHOAL_MQTT_URL": registry.broker,
        "SHOAL_S3_ENDPOINT": s3_server.endpoint,
        "SHOAL_S3_ACCESS_KEY": s3_server.access_key,
        "SHOAL_S3_SECRET_KEY": s3_server.secret_key,
        "SHOAL_WEBHOOK_URL": f"{hook.url.replace('//', '//user:token@')}/token?key=token",
        "SHOAL_WEBHOOK_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "server.processes.controller", "--interval-s", "0.05", "--lease-s", "0.3"]

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stderr=log)

    return registry, start, tmp_path / "log"


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def decisions(registry: Registry) -> list[int]:
    return [row.decision_id for row in registry.rows(tables.decisions)]


def test_controller_receiver_that_hangs_delays_no_decision_and_a_kill_loses_none(
    running: tuple[Registry, Callable[[], subprocess.Popen[bytes]], Path], hook: Hook
) -> None:
    registry, start, log = running
    hook.answers.clear()
    registry.start("r1")
    with ended(start()):
        wait_for(lambda: len(hook.posted) == 1)
        registry.command("r1", "abort")
        wait_for(lambda: registry.state("r1") == "aborted")
        assert len(hook.posted) == 1, "it still waits for the first answer"
    hook.posted.clear()  # the one that was under way: whether it was taken nobody knows
    hook.answers.set()
    process = start()
    with ended(process):
        wait_for(lambda: hook.taken == decisions(registry))
        process.terminate()
        assert process.wait(10) == 0
    process = start()
    with ended(process):
        registry.start("r2", version="2")
        wait_for(lambda: any(posted.document["rollout_id"] == "r2" for posted in hook.posted))
        wait_for(lambda: hook.taken == decisions(registry))
        hook.answers.clear()
        registry.command("r2", "abort")
        wait_for(lambda: any(posted.document["action"] == "abort" for posted in hook.posted[-1:]))
        process.terminate()
        assert process.wait(10) == 0, "a receiver that hangs holds up no end"
    for posted in hook.posted:
        assert posted.path == "/token?key=token"
        assert posted.headers[SIGNATURE_HEADER] == signature_of(posted.body, SECRET)
    assert {(posted.document["model"], posted.document["rollout_id"]) for posted in hook.posted} == {
        ("m", "r1"),
        ("m", "r2"),
    }
    said = log.read_text()
    assert "leads from now on" in said
    assert SECRET not in said
    assert "token" not in said
