"""Apps that ask a real supervisor to wait: by the command, from Python, and over a socket that takes nonsense."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from edge_agent.defer import DeferError, defer, release, seconds_of
from edge_agent.inprocess import LiveModel
from edge_agent.protocol.states import Reason
from edge_agent.supervisor.control import MOST_OPEN, MOST_REQUEST_BYTES, NoAgentError, ask
from tests.edge_agent.supervisor.test_agent_with_real_runner import Load, packed
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

    VariantOf = Callable[..., ToyVariant]

HOUR_S = 3600.0


@pytest.fixture
def serving(device: Device, registry: MqttRegistry, variant_of: VariantOf) -> Device:
    """A device on which version 1 answers."""
    registry.want(1, {"d1": variant_of()})
    device.start()
    registry.expect_serving("d1")
    return device


def run(device: Device, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent.cli", "defer", "--data-dir", str(device.root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def granted(device: Device, *arguments: str) -> dict[str, Any]:
    result = run(device, "--json", *arguments)
    assert result.returncode == 0, result.stderr
    return cast("dict[str, Any]", json.loads(result.stdout))


def test_agent_asked_to_defer_stays_staged_over_kills_of_agent_and_runner_until_it_is_released(
    serving: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    token = granted(serving, "--for", "10m", "--reason", "checkout running")["token"]
    registry.want(2, {"d2": variant_of(version="2")}, max_defer_s=HOUR_S)

    staged = registry.expect_state("d2", "staged")
    assert staged.reason is Reason.DEFERRED
    assert staged.detail.endswith(": checkout running")

    serving.kill()
    registry.statuses.clear()
    serving.start()
    registry.expect_serving("d1")
    registry.expect_state("d2", "staged")
    pid = serving.status()["pids"]["d1"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: serving.status()["pids"].get("d1", pid) != pid, what="the next runner")
    registry.expect_serving("d1")
    assert granted(serving, "--for", "20m", "--token", token)["waiting"] == ["d2"]
    assert [one["for_s"] for one in serving.status()["deferrals"]] == [1200.0]

    assert run(serving, "--end", token).returncode == 0

    registry.expect_serving("d2")
    assert registry.history_of("d2").count("self_testing") <= 1
    assert serving.status()["deferrals"] == []


def test_agent_whose_app_is_killed_swaps_when_the_time_is_over(
    serving: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    defer(serving.layout, for_s=1.5, reason="this process will say no more", model="net")
    registry.want(2, {"d2": variant_of(version="2")}, max_defer_s=HOUR_S)

    registry.expect_serving("d2")


def test_agent_swaps_at_the_rollout_s_limit_and_says_that_it_did_not_wait_longer(
    serving: Device, registry: MqttRegistry, variant_of: VariantOf
) -> None:
    defer(serving.layout, for_s=HOUR_S, reason="a long checkout")
    registry.want(2, {"d2": variant_of(version="2")}, max_defer_s=1.0)

    swapped = registry.expect_serving("d2")

    assert "staged" in registry.history_of("d2")
    assert swapped.detail == "did not wait longer than 1 s, the rollout's limit, for an app: a long checkout"
    assert "did not wait longer" in serving.log


MISTAKES: list[tuple[list[str], str]] = [
    ([], "give either --for TIME or --end TOKEN"),
    (["--for", "1m", "--end", "a" * 32], "give either --for TIME or --end TOKEN"),
    (["--for", "soon"], "'soon' is no time: write for example 90s, 10m or 1h"),
    (["--for", "25h"], "up to 86400 s, not for 90000"),
    (["--for", "0"], "up to 86400 s, not for 0"),
    (["--for", "1m", "--reason", ""], "give a reason of 1 to 200 characters"),
    (["--for", "1m", "--model", "../net"], "--model is"),
    (["--for", "1m", "--model", "nott"], "nothing answers for a model nott here"),
    (["--for", "1m", "--token", "mine"], "that is no token"),
    (["--end", "mine"], "that is no token"),
]


def test_defer_told_what_can_t_be_says_so_in_one_sentence(serving: Device) -> None:
    for arguments, sentence in MISTAKES:
        result = run(serving, *arguments)
        assert result.returncode in {1, 2}
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1
    assert serving.status()["deferrals"] == []


def test_defer_without_an_agent_says_so(device: Device) -> None:
    with pytest.raises(NoAgentError, match="no agent answers"):
        defer(device.layout, for_s=60, reason="nobody is here")
    with pytest.raises(NoAgentError):
        release(device.layout, "a" * 32)


@pytest.mark.parametrize("text", ["", "m", "-1m", "1d", "1e9", "10 m", "٣m", "9" * 30])
def test_seconds_of_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(DeferError, match="is no time"):
        seconds_of(text)


NONSENSE = [
    b"\n",
    b"not json\n",
    b'{"kind": "shutdown"}\n',
    b'{"kind": "defer"}\n',
    b'{"kind": "defer", "token": "x", "for_s": 1, "reason": "r"}\n',
    b'{"kind": "defer", "token": "%s", "for_s": NaN, "reason": "r"}\n' % (b"a" * 32),
    b'{"kind": "defer", "token": "%s", "for_s": 1e12, "reason": "r"}\n' % (b"a" * 32),
    b'{"kind": "status", "more": 1}\n',
    b"x" * MOST_REQUEST_BYTES,
]


def test_control_socket_told_nonsense_answers_with_one_sentence(serving: Device) -> None:
    for line in NONSENSE:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(serving.layout.control_socket))
            client.sendall(line)
            answer = b""
            while part := client.recv(4096):
                answer += part
        assert json.loads(answer)["error"].startswith("the request does not fit: "), line
    assert serving.status()["deferrals"] == []


def test_control_socket_answers_others_while_many_say_nothing(serving: Device) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(MOST_OPEN + 8)]
    try:
        for client in silent:
            client.connect(str(serving.layout.control_socket))
        assert ask(serving.layout.control_socket)["device_id"] == "dev-1"
    finally:
        for client in silent:
            client.close()


def test_agent_under_load_defers_for_an_in_process_model_and_loses_no_request(
    device: Device, registry: MqttRegistry, workshop: Workshop, manifest_of: Callable[..., VariantManifest]
) -> None:
    device.flags = ["--set", "runner_command=", "--set", "front_command="]

    def version(number: str) -> ToyVariant:
        return packed(workshop, manifest_of, workshop.float_file(), version=number)

    registry.want(1, {"d1": version("1")})
    device.start()
    registry.expect_serving("d1", timeout_s=40)
    name = device.status()["deployments"][0]["model"]
    with Load(device.port, workshop) as load, LiveModel.open(name, device.root) as model:
        with model.defer(600, reason="a basket is being priced") as promised:
            assert promised
            registry.want(2, {"d2": version("2")}, max_defer_s=HOUR_S)
            registry.expect_state("d2", "staged", timeout_s=40)
            answered = load.answered
            until(lambda: load.answered > answered + 50, what="answers while it waits")
            assert model.version == "1"
            assert registry.serving("d1")
        registry.expect_serving("d2", timeout_s=40)
        until(lambda: model.version == "2", what="the in-process model's swap")
        answered = load.answered
        until(lambda: load.answered > answered + 20, what="answers of the new version")
    assert load.failures == []
