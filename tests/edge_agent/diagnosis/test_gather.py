from __future__ import annotations

import io
import json
import secrets
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.diagnosis.gather import gather
from edge_agent.diagnosis.shorten import diagnosis_within, tail_within
from edge_agent.layout import Layout
from edge_agent.protocol.inquiry import Diagnosis, LogLevel, LogLine, LogTail, unpack
from tests.edge_agent.surroundings.device import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]


def diagnose(root: Path, output: Path) -> dict[str, Any]:
    """The files of a bundle that the command has written, by name; JSON is read."""
    command = [sys.executable, "-m", "edge_agent.cli", "diagnose", "-o", str(output), "--data-dir", str(root)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    with tarfile.open(output) as tar:
        texts = {name.partition("/")[2]: (tar.extractfile(name) or io.BytesIO()).read() for name in tar.getnames()}
    return {name: json.loads(text) if name.endswith(".json") else text.decode() for name, text in texts.items()}


def test_gather_of_an_agent_that_was_killed_tells_of_its_files(
    device: Device, registry: MqttRegistry, variant_of: VariantOf, tmp_path: Path
) -> None:
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    device.kill()
    (folder,) = (device.root / "variants").iterdir()
    (folder / "model").write_bytes(b"damaged")

    files = diagnose(device.root, tmp_path / "b.tar.gz")

    assert files["device/agent.json"]["running"] is False
    assert files["device/agent.json"]["device_id"] == "dev-1"
    assert files["device/deployments.json"]["records"][0]["state"] == "active"
    broken = files["device/variants.json"][folder.name]["files"]["model"]
    assert broken["right"] is False
    assert broken["wanted_sha256"] == variant_of().manifest.model_file.sha256
    assert "deployment d1 (net@1) is active" in files["device/log.txt"]
    assert "error" in files["device/settings.json"], "it says what it can't know"
    assert KEY not in json.dumps(files)


def test_gather_in_an_empty_folder_says_what_is_missing(tmp_path: Path) -> None:
    found = gather(Layout(tmp_path), lines=10)
    assert found.device_id is None
    assert found.agent["joined"] is False
    assert "no agent has run here" in str(found.deployments["error"])
    assert found.log == LogTail()
    assert found.machine["memory_total_bytes"]


def test_gather_with_a_damaged_identity_and_state_goes_on(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{")
    (tmp_path / "state.db").write_bytes(b"no database at all" * 100)
    (tmp_path / "variants" / "x").mkdir(parents=True)
    found = gather(Layout(tmp_path), lines=10)
    assert "can't be read as an identity" in str(found.agent["identity_error"])
    assert "DatabaseError" in str(found.deployments["error"])
    assert found.variants["x"] == {"error": "its manifest can't be read: FileNotFoundError"}


@pytest.fixture
def long_log() -> LogTail:
    lines = tuple(LogLine(number=n, at=0, level=LogLevel.INFO, text=secrets.token_hex(500)) for n in range(1, 1001))
    return LogTail(lines=lines, last_number=1000)


def test_answer_that_is_too_large_keeps_the_last_lines_and_counts_the_others(long_log: LogTail) -> None:
    for packed in (tail_within(long_log, 100_000), diagnosis_within(Diagnosis(log=long_log), 100_000)):
        assert len(packed) <= 100_000
    found = unpack(LogTail, tail_within(long_log, 100_000))
    assert found.lines == long_log.lines[-len(found.lines) :]
    assert len(found.lines) + found.left_out == 1000
    assert found.lines


def test_answer_that_can_not_fit_has_no_lines_left(long_log: LogTail) -> None:
    assert unpack(LogTail, tail_within(long_log, 10)).left_out == 1000
