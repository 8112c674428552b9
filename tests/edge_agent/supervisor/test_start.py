"""Starting where that is impossible: one sentence, and what to do."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge_agent.surroundings.device import Device


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("head -c 1m /dev/zero > $DISK/filler", "No space left on device"),
        ("head -c 100k /dev/zero > $DISK/filler", "disk I/O error"),  # SQLite's words for a file that can't grow
        ("mount -o remount,ro $DISK", "Read-only file system"),
    ],
    ids=["full", "nearly full", "read-only"],
)
def test_start_on_a_disk_that_takes_nothing_says_so_in_one_sentence(
    device: Device, tmp_path: Path, spoil: str, words: str
) -> None:
    """A real file system of 128 KiB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    identity = device.layout.identity
    device.root = disk
    story = f'mount -t tmpfs -o size=128k none $DISK && cp {identity} $DISK && {{ {spoil} 2>/dev/null; exec "$@"; }}'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", story, "sh", *device.command()]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=40, check=False, env={**os.environ, "DISK": str(disk)}
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"edge-agent: can't write to {disk} ({words}): free some space or make it writable, then start again"
    ]
