"""The supervisor with the real runner and the real interpreter: the whole device, the network apart."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest
import zstandard

from edge_agent.protocol.manifest import Encoding, ObjectDescriptor
from tests.edge_agent.surroundings.toy_variant import ToyVariant
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.surroundings.device import Device
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry


@pytest.fixture
def real_device(device: Device) -> Device:
    device.flags = ["--set", "runner_command=", "--set", "front_command="]
    return device


def packed(workshop: Workshop, manifest_of: Callable[..., VariantManifest], path: Path, **names: str) -> ToyVariant:
    """A real model file and its golden samples, as the registry packs them."""
    golden = workshop.golden_file()
    manifest = manifest_of(path, workshop.network.signature, golden=(golden, 0.1), **names)
    payload = path.read_bytes() + golden.read_bytes()
    travelling = zstandard.compress(payload)
    update = {
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "object": ObjectDescriptor.describe(travelling, encoding=Encoding.ZSTD),
    }
    return ToyVariant(manifest.model_copy(update=update), travelling)


def infer(device: Device, workshop: Workshop, model: str = "tiny") -> list[float]:
    rows = workshop.network.samples(1).tolist()
    command = [sys.executable, "-m", "edge_agent.cli", "infer", model, "--data-dir", str(device.root)]
    text = json.dumps({"features": rows})
    result = subprocess.run([*command, text], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr
    values: list[float] = json.loads(result.stdout.splitlines()[1])
    return values


def test_agent_runs_a_real_model_and_swaps_it_for_its_int8_variant_under_load_without_losing_a_request(
    real_device: Device,
    registry: MqttRegistry,
    workshop: Workshop,
    manifest_of: Callable[..., VariantManifest],
) -> None:
    registry.want(1, {"d1": packed(workshop, manifest_of, workshop.float_file())})
    real_device.start()
    proven = registry.expect_serving("d1", timeout_s=40)
    assert proven.self_test is not None
    assert proven.self_test.golden_max_error is not None
    expected = workshop.network.expected(workshop.network.samples(1))[0]
    np.testing.assert_allclose(infer(real_device, workshop), expected, atol=1e-4)

    load = Load(real_device.port, workshop)
    with load:
        registry.want(2, {"d2": packed(workshop, manifest_of, workshop.int8_file(), version="2")})
        registry.expect_serving("d2", timeout_s=40)
        registry.expect_state("d1", "superseded")
        answered = load.answered
        until(lambda: load.answered > answered + 20, what="answers of the new variant")

    assert load.failures == []
    np.testing.assert_allclose(infer(real_device, workshop), expected, atol=0.1)
    until(lambda: (s := registry.state_of("d2")) is not None and s.inferences > 0, what="counted inferences")
    until(lambda: sum(r.requests for r in registry.reports) >= load.answered, what="every request in telemetry")
    assert real_device.stop() == 0


def test_agent_without_room_for_two_real_runners_is_not_held_up_by_an_idle_client(
    real_device: Device,
    registry: MqttRegistry,
    workshop: Workshop,
    manifest_of: Callable[..., VariantManifest],
) -> None:
    real_device.flags += ["--memory-budget", "90M"]  # one runner fits, two do not
    registry.want(1, {"d1": packed(workshop, manifest_of, workshop.float_file())})
    real_device.start()
    registry.expect_serving("d1", timeout_s=40)
    idle = http.client.HTTPConnection("127.0.0.1", real_device.port, timeout=10)
    idle.request("GET", "/v2/health/live")
    idle.getresponse().read()
    old = real_device.status()["pids"]["d1"]

    registry.want(2, {"d2": packed(workshop, manifest_of, workshop.int8_file(), version="2")})

    registry.expect_serving("d2", timeout_s=40)  # a drain for idle clients takes 60 s
    assert not Path(f"/proc/{old}").exists(), "they were never there together"
    assert idle.sock is not None
    assert idle.sock.recv(1) == b"", "the idle connection was closed"
    idle.close()


def test_agent_with_two_real_models_answers_both_on_one_port(
    real_device: Device,
    registry: MqttRegistry,
    workshop: Workshop,
    manifest_of: Callable[..., VariantManifest],
) -> None:
    path = workshop.float_file()
    registry.want(
        1,
        {
            "d1": packed(workshop, manifest_of, path),
            "e1": packed(workshop, manifest_of, path, model="twin"),
        },
    )
    real_device.start()
    registry.expect_serving("d1", timeout_s=40)
    registry.expect_serving("e1", timeout_s=40)

    for model in ("tiny", "twin"):
        with Load(real_device.port, workshop, model=model) as load:
            until(lambda load=load: load.answered > 20, what=f"answers of {model}")  # type: ignore[misc]
        assert load.failures == []


class Load:
    """A keep-alive client that does not retry."""

    def __init__(self, port: int, workshop: Workshop, *, model: str = "tiny") -> None:
        self._port, self._stop = port, threading.Event()
        self._path = f"/v2/models/{model}/infer"
        rows = workshop.network.samples(1)
        tensor = {"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": rows.reshape(-1).tolist()}
        self._body = json.dumps({"inputs": [tensor]}).encode()
        self.answered = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._stop.is_set():
            try:
                connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as exc:
                self.failures.append(repr(exc))
                connection.close()
                continue
            if response.status == 200:
                self.answered += 1
            else:
                self.failures.append(f"{response.status} {body[:200]!r}")
        connection.close()
