"""The processes of the demo: one registry, three agents. All end with the demo, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = Path(sys.executable).parent  # of the environment that runs the demo
TFLITE_COMMANDS = REPOSITORY / ".venv-tflite" / "bin"
STOP_GRACE_S = 30.0


class DemoError(Exception):
    """The demo can't go on; one sentence says why."""


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float) -> None:
    """Poll until the condition holds.

    Raises:
        DemoError: it does not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"after {timeout_s:.0f} s still not: {what}")
        time.sleep(0.2)


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(name: str, argv: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that is stopped at the end; its output goes to a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            sys.stderr.write(f"{name} did not stop by itself; see {log}\n")


class Stack:
    """A registry with its agents in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "registry"
        self._running = ExitStack()
        self._agents: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the agents, then the registry."""
        self._running.close()

    def start_registry(self, **settings: str) -> str:
        """Start `edge-registry up`, with settings as in the environment; the address of its API."""
        log = self.folder / "registry.log"
        environment = {"SHOAL_RUNTIME_PYTHONS": json.dumps({"tflite": str(TFLITE_COMMANDS / "python")}), **settings}
        argv = [str(COMMANDS / "edge-registry"), "up", "--data-dir", str(self.data_dir)]
        up = self._running.enter_context(started("the registry", argv, log, environment))
        wait_until(lambda: self._api_url(up, log) is not None, f"the registry is up; see {log}", timeout_s=60)
        url = self._api_url(up, log)
        assert url is not None
        return url

    def _api_url(self, up: subprocess.Popen[bytes], log: Path) -> str | None:
        if up.poll() is not None:
            raise DemoError(f"the registry ended: {log.read_text(errors='replace').strip()[-600:]}")
        from server.stack import stack_state  # noqa: PLC0415  only this needs the server's code

        state = stack_state(self.data_dir)
        return state.api_url if state is not None and state.is_running else None

    @property
    def root(self) -> Path:
        """The registry's root certificate: whoever asks its API trusts it."""
        return self.data_dir / "trust" / "root.crt"

    def start_agent(self, device: str, *, registry_url: str, token: str, tflite: bool) -> int:
        """Enrol a device and start its agent; the port on which it answers."""
        port = free_port()
        command, data_dir = str((TFLITE_COMMANDS if tflite else COMMANDS) / "edge-agent"), str(self.folder / device)
        enroll = [command, "enroll", registry_url, "--token", token, "--device-id", device, "--data-dir", data_dir]
        enrolled = subprocess.run(enroll, capture_output=True, text=True, check=False)
        if enrolled.returncode:
            raise DemoError(f"{device} could not enrol: {enrolled.stderr.strip()[-600:]}")
        argv = [command, "start", "--data-dir", data_dir, "--listen", f"127.0.0.1:{port}"]
        self._agents[device] = self._running.enter_context(started(device, argv, self._log_of(device), {}))
        return port

    def agents_live(self) -> bool:
        """True, as long as it is.

        Raises:
            DemoError: an agent has ended; with the end of what it said.
        """
        for device, process in self._agents.items():
            if process.poll() is not None:
                said = self._log_of(device).read_text(errors="replace").strip()
                raise DemoError(f"the agent {device} ended with {process.returncode}: {said[-600:]}")
        return True

    def _log_of(self, device: str) -> Path:
        return self.folder / f"{device}.log"
