"""`edge-registry up` and `edge-agent start` as processes of a test: started, asked, killed, stopped without a rest."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from server.client import RegistryClient
from server.stack import stack_state

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from server.stack import StackState

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = Path(sys.executable).parent
TFLITE_COMMANDS = REPOSITORY / ".venv-tflite" / "bin"
STEP_DEADLINE_S = 60.0
TELEMETRY_WINDOW_S = 1.0


def wait_until(condition: Callable[[], Any], what: str, *, timeout_s: float = STEP_DEADLINE_S) -> Any:  # noqa: ANN401  what it gave
    """Poll until the condition gives something true, and give that."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        if outcome := condition():
            return outcome
        if time.monotonic() > deadline_s:
            pytest.fail(f"after {timeout_s:.0f} s still not: {what}")
        time.sleep(0.05)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RunningRegistry:
    """`edge-registry up` on one data directory."""

    data_dir: Path
    arguments: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    commands: Path = COMMANDS
    cwd: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """What `up` itself says."""
        return self.data_dir.parent / "up.log"

    def start(self) -> None:
        """Start it and wait until it says that it is up."""
        settings = {
            "SHOAL_RUNTIME_PYTHONS": json.dumps({"tflite": str(TFLITE_COMMANDS / "python")}),
            "SHOAL_TELEMETRY_INTERVAL_S": str(TELEMETRY_WINDOW_S),
            "SHOAL_PRESENCE_INTERVAL_S": "5",
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.prefix,
                    str(self.commands / "edge-registry"),
                    "up",
                    "--data-dir",
                    str(self.data_dir),
                    *self.arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **settings, **self.environment},
                cwd=self.cwd,
            )
        wait_until(self._is_up, f"the registry is up; see {self.log_path}")

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"`up` ended with {self.process.returncode}: {self.log_path.read_text()[-2000:]}")
        state = stack_state(self.data_dir)
        return state is not None and state.is_running and "api" in state.processes

    @property
    def state(self) -> StackState:
        """Addresses and process ids."""
        state = stack_state(self.data_dir)
        assert state is not None
        return state

    @property
    def url(self) -> str:
        """Of the API."""
        return self.state.api_url

    def client(self) -> RegistryClient:
        """An operator's client."""
        return RegistryClient(self.url, ca=self.root)

    @property
    def root(self) -> Path:
        """The root certificate."""
        return self.data_dir / "trust" / "root.crt"

    def cli(self, *arguments: str | Path, timeout_s: float = STEP_DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """One `edge-registry` command, as a user types it."""
        return subprocess.run(
            [*self.prefix, str(self.commands / "edge-registry"), *map(str, arguments), "--registry", self.url],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=self.cwd,
            env={**os.environ, "SHOAL_CA": str(self.root)},
        )

    def cli_here(self, *arguments: str | Path, timeout_s: float = STEP_DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """One command that works on the data directory itself."""
        return subprocess.run(
            [str(self.commands / "edge-registry"), *map(str, arguments), "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, **self.environment},
        )

    def kill(self, part: str) -> None:
        """`kill -9` of one part; `up` starts it again by itself."""
        os.kill(self.state.processes[part].pid, signal.SIGKILL)

    def wait_for_restart(self, part: str, old_pid: int) -> None:
        """Wait until `up` has started a part again."""

        def restarted() -> bool:
            process = self.state.processes.get(part)
            return process is not None and process.pid != old_pid and process.is_alive()

        wait_until(restarted, f"{part} is started again")

    def kill_up(self) -> None:
        """`kill -9` of `up` itself: all its children go with it."""
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(10)
        self.process = None
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"left behind: {alive}"

    def stop(self) -> None:
        """SIGTERM, and the proof that nothing is left."""
        process, self.process = self.process, None
        if process is None:
            return
        stop_family(process)


@dataclass
class RunningAgent:
    """`edge-agent start` as a process."""

    data_dir: Path
    registry_url: str
    device_id: str
    commands: Path = COMMANDS
    flags: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """What the agent and its runners say."""
        return self.data_dir.parent / f"{self.device_id}.log"

    def enroll(self, token: str, *flags: str) -> None:
        """`edge-agent enroll`, under this device's id."""
        command = [*self.prefix, str(self.commands / "edge-agent"), "enroll", self.registry_url, "--token", token]
        command += ["--device-id", self.device_id, "--data-dir", str(self.data_dir), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it; it is enrolled."""
        arguments = ["start", "--data-dir", str(self.data_dir), "--listen", f"{self.host}:{self.port}"]
        # reconnecting within half a second keeps the tests short; what happens is the same
        arguments += ["--set", "reconnect_first_s=0.3", "--set", "reconnect_cap_s=1", "--set", "ack_wait_s=3"]
        arguments += ["--set", "will_delay_s=1", *self.flags]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, str(self.commands / "edge-agent"), *arguments], stdout=log, stderr=subprocess.STDOUT
            )

    def infer(self, model: str, rows: NDArray[np.float32]) -> dict[str, Any]:
        """One JSON request with the input `features`."""
        tensor = {"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
        response = httpx.post(f"{self.url}/v2/models/{model}/infer", json={"inputs": [tensor]}, timeout=10)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    @property
    def url(self) -> str:
        """Where the device answers the inference protocol."""
        return f"http://{self.host}:{self.port}"

    def serves(self, model: str, version: str) -> bool:
        """Whether this version answers now."""
        try:
            return httpx.get(f"{self.url}/v2/models/{model}/versions/{version}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def status(self) -> dict[str, Any]:
        """`edge-agent status --json`."""
        command = [str(self.commands / "edge-agent"), "status", "--json", "--data-dir", str(self.data_dir)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert result.returncode == 0, result.stderr
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    def runner_pids(self) -> dict[str, int]:
        """Process ids of its children by deployment."""
        pids: dict[str, int] = self.status()["pids"]
        return pids

    def kill(self) -> None:
        """`kill -9` of the supervisor; its runners must follow by themselves."""
        assert self.process is not None
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(10)
        self.process = None
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive, f"left behind: {alive}"

    def stop(self) -> None:
        """SIGTERM, and the proof that nothing is left."""
        process, self.process = self.process, None
        if process is not None:
            stop_family(process)


def stop_family(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to a process; it and all below it must be gone soon after."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
        pytest.fail(f"did not stop within 30 s: {process.args!r}")
    finally:
        _, alive = psutil.wait_procs(family, timeout=8)
        for rest in alive:
            rest.kill()
    assert not alive, f"left behind: {alive}"
