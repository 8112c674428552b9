"""What a person types, and the one sentence that answers a mistake."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edge_agent.profiles import load_profile
from tests.edge_agent.surroundings.toy_variant import make_variant

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.edge_agent.surroundings.broker import Broker
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.http_registry import HttpRegistry
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry


TOKEN = "shoal-secret." + "A" * 43  # names a root that nobody has


def run(*arguments: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_help_answers_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # processor time: the wall clock belongs to whatever else this machine is doing
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["start"], "belongs to no registry yet: edge-agent enroll URL --token TOKEN"),
        (["enroll"], "required: URL"),
        (["enroll", "https://127.0.0.1:9"], "give the token"),
        (["enroll", "https://127.0.0.1:9", "--token-file", "/nowhere"], "can't read a token from /nowhere"),
        (["enroll", "https://127.0.0.1:9", "--token-file", "/dev/null"], "/dev/null is empty"),
        (["enroll", "https://127.0.0.1:9", "--token", "t", "--token-file", "x"], "give either --token or"),
        (["enroll", "https://127.0.0.1:9", "--token", "shoal-cut.AAAA"], "no token of a registry, or it was cut"),
        (["enroll", "https://127.0.0.1:9", "--token", TOKEN], "does not answer"),
        (["enroll", "ftp://x", "--token", TOKEN], "is not https://"),
        (["enroll", "http://127.0.0.1:9", "--token", TOKEN], "is not https://"),
        (["enroll", "https://x:99999999", "--token", TOKEN], "no http:// or https:// address"),
        (["enroll", "r", "--token", TOKEN, "--device-id", "../x"], "--device-id is '../x'"),
        (["enroll", "r", "--token", TOKEN, "--device-id", "🐟"], "--device-id is"),
        (["enroll", "r", "--token", TOKEN, "--profile", "a b"], "--profile is 'a b'"),
        (["enroll", "r", "--token", TOKEN, "--label", "site"], "--label is 'site': write KEY=VALUE"),
        (["start", "--listen", "nowhere"], "write HOST:PORT"),
        (["start", "--set", "quiet_s=-1"], "setting quiet_s"),
        (["start", "--set", "colour=red"], "setting colour"),
        (["start", "--storage-budget", "lots"], "is no size"),
        (["start", "--transport", "pigeon"], "invalid choice"),
        (["status"], "no agent answers in"),
        (["infer", "net"], "required: INPUTS"),
        (["infer", "net", "{"], "the text is neither JSON nor an .npz"),
        (["infer", "net", "[]"], "the text is no JSON object with the inputs"),
        (["infer", "net", '{"x": [1]}'], "no model net is served here"),
        (["infer", "../net", '{"x": [1]}'], "MODEL is '../net'"),
        (["infer", "net", "missing.npz"], "'missing.npz' can't be read"),
        (["infer", "net", "/dev/null"], "/dev/null is neither JSON nor an .npz"),
        (["probe", "--name", "a/b"], "--name is 'a/b'"),
        (["probe", "-o", "/nowhere/at/all.yaml"], "can't write"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_mistake_gets_one_sentence_and_an_exit_code(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = run(*arguments, "--data-dir", str(tmp_path / "agent"))
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode != 0
    assert sentence in last
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "agent" / "identity.json").exists()


def test_start_in_a_folder_that_is_a_file_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "agent").write_text("not a folder")
    result = run("start", "--data-dir", str(tmp_path / "agent"))
    assert result.returncode == 1
    assert "give another --data-dir" in result.stderr
    assert result.stderr.count("\n") == 1


def test_probe_writes_a_profile_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    assert run("probe", "-o", str(path), "--name", "this-one").returncode == 0
    profile = load_profile(path.read_text())
    assert profile.name == "this-one"
    assert profile.ram_bytes > 1 << 20


def test_profiles_lists_the_well_known_ones() -> None:
    names = {line.split()[0] for line in run("profiles").stdout.splitlines()}
    assert names >= {"pi-4", "pi-zero-2w", "rk3588"}
    assert {profile["name"] for profile in json.loads(run("profiles", "--json").stdout)} == names


@pytest.fixture
def https_device(
    device: Device, http_registry: HttpRegistry, registry: MqttRegistry, broker: Broker
) -> Iterator[Device]:
    """A device that fetches over HTTP; the broker only rings the bell."""
    assert broker.process is not None
    device.registry_url = http_registry.url
    device.join()
    device.flags = ["--transport", "https"]
    variant = make_variant(filler_bytes=200_000)
    http_registry.variants[variant.manifest_sha256] = variant
    registry.want(1, {"d1": variant})
    yield device
    assert [ask.kind for ask in registry.asks if ask.kind in ("blocks", "manifest")] == []


def test_https_transport_resumes_where_the_connection_broke(
    https_device: Device, http_registry: HttpRegistry, registry: MqttRegistry
) -> None:
    http_registry.cut_after_bytes = 100 * 1024
    https_device.start()

    status = registry.expect_serving("d1")

    assert http_registry.ranges[0].startswith("bytes=0-")
    assert http_registry.ranges[1].startswith(f"bytes={100 * 1024}-")
    assert status.bytes_received < status.bytes_total + 2048


def test_https_transport_asks_for_a_new_url_when_one_has_expired(
    https_device: Device, http_registry: HttpRegistry, registry: MqttRegistry
) -> None:
    http_registry.cut_after_bytes = 100 * 1024
    http_registry.expires_when_cut = True
    https_device.start()

    status = registry.expect_serving("d1")

    assert http_registry.urls_given == 2
    assert [asked.partition("-")[0] for asked in http_registry.ranges] == ["bytes=0", f"bytes={100 * 1024}"]
    assert status.bytes_received < status.bytes_total + 2048


def test_https_transport_refused_a_fresh_url_says_so_and_begins_anew_when_it_is_told_later(
    https_device: Device, http_registry: HttpRegistry, registry: MqttRegistry
) -> None:
    http_registry.expired_urls = 1
    https_device.start()
    refused = registry.expect_state("d1", "failed")
    assert (refused.reason, refused.detail) == (
        "transfer_failed",
        "the store refuses a fresh URL: the store answered with status 403",
    )
    assert http_registry.urls_given == 1

    registry.want(2, {"d1": next(iter(http_registry.variants.values()))})

    registry.expect_serving("d1")
