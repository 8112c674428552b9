"""Devices on another machine, as far as one machine can show it: an agent in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.e2e.fleet import Fleet
from tests.processes import RunningRegistry, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import TinyModel

# A client on the device's side: what listens in the namespace cannot be reached from outside of it.
ASK = """
import json, sys, urllib.request
url, body = sys.argv[1], sys.stdin.buffer.read()
print(urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10).read().decode())
"""


# where tooling/setup.sh looks for it too; "": not there
IP = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def ip(*arguments: str, may_be_refused: bool = False) -> None:
    result = subprocess.run([IP, *arguments], check=False, capture_output=True, text=True, timeout=10)
    if result.returncode and may_be_refused:
        pytest.skip(f"not even root may make a network here (a container without CAP_NET_ADMIN?): {result.stderr}")
    assert result.returncode == 0, result.stderr


@pytest.fixture
def network() -> Iterator[tuple[str, str, str]]:
    """Two namespaces joined by a cable: (the registry's, its address, the device's). Nothing else is in them."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root: run it once as root")
    if not IP:
        pytest.fail("the command `ip` is missing, which `make setup` installs: apt-get install iproute2")
    mark = f"{os.getpid():x}"
    ours, theirs = f"shoal-r{mark}", f"shoal-d{mark}"
    try:
        for namespace in (ours, theirs):
            ip("netns", "add", namespace, may_be_refused=True)
            ip("-n", namespace, "link", "set", "lo", "up")
        cable = ("cable0", "type", "veth", "peer", "name", "cable1", "netns", theirs)
        ip("-n", ours, "link", "add", *cable, may_be_refused=True)
        for namespace, end, address in ((ours, "cable0", "10.203.0.1/30"), (theirs, "cable1", "10.203.0.2/30")):
            ip("-n", namespace, "address", "add", address, "dev", end)
            ip("-n", namespace, "link", "set", end, "up")
        yield ours, "10.203.0.1", theirs
    finally:
        for namespace in (ours, theirs):
            subprocess.run([IP, "netns", "delete", namespace], check=False, capture_output=True, timeout=10)


def test_agents_in_another_network_join_fetch_over_both_transports_and_infer(
    network: tuple[str, str, str], prepared: Path, folder: Path, tiny_model: TinyModel
) -> None:
    ours, address, theirs = network
    shutil.copytree(prepared, folder / "registry", ignore=shutil.ignore_patterns("*.sock"))
    inside = (IP, "netns", "exec", ours)
    registry = RunningRegistry(folder / "registry", arguments=("--host", address), prefix=inside)
    devices = {"mqtt-1": "mqtt", "https-1": "https"}
    agents = []
    try:
        registry.start()
        said = registry.cli
        for device, transport in devices.items():
            token = json.loads(said("token", "create", "--profile", "bench", "--json").stdout)["token"]
            agent = Fleet(registry, folder).device(
                device, flags=("--transport", transport), prefix=(IP, "netns", "exec", theirs)
            )
            agents.append(agent)
            agent.enroll(token)
            agent.start()
        wait_until(
            lambda: [d["presence"] for d in json.loads(said("device", "list", "--json").stdout)] == ["online"] * 2,
            "both are online",
        )
        rolled = said("rollout", "start", "tiny@1", "--waves", "50%,100%", "--watch", "--json")
        assert rolled.returncode == 0, rolled.stderr
        assert sum(wave["running"] for wave in json.loads(rolled.stdout)["waves"]) == 2
        tensor = {"name": "features", "shape": [32, 8], "datatype": "FP32", "data": tiny_model.rows.ravel().tolist()}
        for agent in agents:
            answer = subprocess.run(
                [*agent.prefix, sys.executable, "-c", ASK, f"{agent.url}/v2/models/tiny/infer"],
                input=json.dumps({"inputs": [tensor]}),
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
            outputs = json.loads(answer.stdout)["outputs"][0]["data"]
            np.testing.assert_allclose(outputs, tiny_model.expected("1").ravel(), atol=0.15)
        state = registry.state
        assert all(address in url for url in (state.api_url, state.mqtt_url, state.s3_endpoint))
    finally:
        for agent in agents:
            agent.stop()
        registry.stop()
