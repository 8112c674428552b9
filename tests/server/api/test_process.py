"""The API as a process: it starts, answers, and stops cleanly."""

import random
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.stack.ports import LOOPBACK, choose_ports
from server.trust.folder import TrustFolder

Server = Any  # the class of this fixture lives in a conftest, which a test can't import


def environment(tmp_path: Path, s3_server: Server, **changes: str) -> dict[str, str]:
    return {
        "SHOAL_DATA_DIR": str(tmp_path),
        "SHOAL_S3_ENDPOINT": s3_server.endpoint,
        "SHOAL_S3_ACCESS_KEY": s3_server.access_key,
        "SHOAL_S3_SECRET_KEY": s3_server.secret_key,
        **changes,
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_serves_and_ends_with_0_on_a_signal(tmp_path: Path, s3_server: Server, number: signal.Signals) -> None:
    port = choose_ports(["api"], fixed={}, addresses=[LOOPBACK], chance=random.SystemRandom())["api"]
    trust = TrustFolder(tmp_path / "trust")
    trust.make("test", now=time.time())
    trust.keep_current(host_names=[LOOPBACK], now=time.time())
    variables = environment(tmp_path, s3_server, SHOAL_API_PORT=str(port))
    process = subprocess.Popen([sys.executable, "-m", "server.processes.api"], env=variables, stderr=subprocess.PIPE)
    try:
        health = wait_for_health(process, f"https://{LOOPBACK}:{port}", trust.paths.root)
        assert (health["database"], health["objects"]) == ("ok", "ok")
        assert "no MQTT URL" in health["broker"]
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.communicate()


def wait_for_health(process: "subprocess.Popen[bytes]", url: str, root: Path) -> dict[str, str]:
    end_s = time.monotonic() + 30
    while True:
        try:
            trusted = ssl.create_default_context(cafile=root)
            return dict(httpx.get(f"{url}/v1/health", timeout=10, verify=trusted).json())
        except httpx.ConnectError:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end_s
            time.sleep(0.05)


def test_process_without_a_port_says_so(tmp_path: Path, s3_server: Server) -> None:
    command = [sys.executable, "-m", "server.processes.api"]
    ended = subprocess.run(
        command, env=environment(tmp_path, s3_server), capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "No port is set for the API: give SHOAL_API_PORT, or run under `edge-registry up`.\n"
