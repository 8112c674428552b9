"""What is wrong with a device, asked by the command line: its log, and a bundle; a silent one holds nobody up."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.fleet import Fleet


def names_of(path: Path) -> set[str]:
    with tarfile.open(path) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def test_device_tells_its_log_and_a_bundle_and_a_stopped_one_is_told_of(fleet: Fleet, folder: Path) -> None:
    agent = fleet.join("till-1")
    fleet.wait_online(agent)
    fleet.wait_for(fleet.roll_out("1"))
    said = fleet.registry.cli

    told = said("device", "logs", "till-1")
    assert told.returncode == 0, told.stderr
    assert "(tiny@1) is active" in told.stdout
    lines = json.loads(said("device", "logs", "till-1", "--lines", "2", "--json").stdout)["lines"]
    assert len(lines) == 2

    bundle = folder / "bundle.tar.gz"
    written = said("device", "diagnose", "till-1", "-o", bundle)
    assert written.returncode == 0, written.stderr
    assert {"README.txt", "device/variants.json", "device/log.txt", "registry/telemetry.json"} <= names_of(bundle)

    agent.stop()
    silent = said("device", "logs", "till-1", "--wait", "1s")
    assert silent.returncode == 1
    assert "Device till-1 is offline, last heard" in silent.stderr
    assert "--wait 1h" in silent.stderr
    rest = said("device", "diagnose", "till-1", "-o", bundle, "--wait", "1s")
    assert rest.returncode == 1
    assert "What the registry knows is in the file" in rest.stderr
    assert "device/unanswered.txt" in names_of(bundle)
    assert "device/agent.json" not in names_of(bundle)
