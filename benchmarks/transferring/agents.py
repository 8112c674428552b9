"""Many real agents: the supervisor's own class, one process each, forked after the imports: no start is measured.

    python -m benchmarks.transferring.agents SPEC.json

The runner alone is not real, it waits for ever: what is measured ends where the variant is installed. Each agent writes
a line of JSON to standard output when it has done something that is measured; the end of standard input ends them all.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.deployments.events import DesiredReceived, TransferDone, Unpacked
from edge_agent.layout import Layout
from edge_agent.link import identity as identities
from edge_agent.settings import AgentSettings
from edge_agent.supervisor.agent import Agent

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1
WAITING_RUNNER = ("bash", "-c", 'exec cat <&"$2" >/dev/null', "runner")  # until its control socket ends


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that one agent has done."""

    device: str
    what: str  # connected, noticed, begun, verified, installed
    at_s: float  # monotonic: one clock for all processes of a machine
    received_bytes: int = 0


class WatchedAgent(Agent):
    """An agent that says when something has happened."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  as Agent
        super().__init__(*arguments, **options)
        self._begun: set[str] = set()
        self._was_connected = False

    def _tell(self, what: str, received_bytes: int = 0) -> None:
        line = json.dumps([self._identity.device_id, what, time.monotonic(), received_bytes])
        os.write(1, f"{line}\n".encode())  # short enough to be written in one piece

    def _turn(self, timeout_s: float) -> None:
        super()._turn(timeout_s)
        if self._line.connection.connected and not self._was_connected:
            self._was_connected = True
            self._tell("connected")
        for manifest_sha256, progress in self._line.transfers.progress().items():
            if progress.received_bytes and manifest_sha256 not in self._begun:
                self._begun.add(manifest_sha256)
                self._tell("begun")

    def _handle_events(self) -> None:
        for event in self._events:
            if isinstance(event, DesiredReceived) and event.desired.order > self._core.accepted.order > (0, 0):
                self._tell("noticed")
            elif isinstance(event, TransferDone):
                self._tell("verified", event.bytes_received)
            elif isinstance(event, Unpacked):
                self._tell("installed")
        super()._handle_events()


class Agents:
    """Started with `start`, heard with `wait_for`, ended by `close`.

    Args:
        folder: for their data.
        values: settings of all of them.
    """

    def __init__(self, folder: Path, **values: object) -> None:
        self._folder, self._values = folder, {"listen": "unix", "runner_command": WAITING_RUNNER, **values}
        self._process: subprocess.Popen[str] | None = None
        self._happened: queue.SimpleQueue[Happened] = queue.SimpleQueue()

    def start(self, members: dict[str, tuple[str, str]], *, key: str) -> None:
        """Start one for each name.

        Args:
            members: by device, the registry's address and the broker's, as this device sees them.
            key: of all of them.
        """
        specs = []
        for device, (registry_url, mqtt_url) in members.items():
            layout = Layout(self._folder / device)
            identities.save(
                layout,
                identities.Identity(
                    device_id=device, profile="bench", registry_url=registry_url, mqtt_url=mqtt_url, key=key
                ),
            )
            specs.append({**self._values, "data_dir": str(layout.root)})
        path = self._folder / "agents.json"
        path.write_text(json.dumps(specs))
        command = [sys.executable, "-m", "benchmarks.transferring.agents", str(path)]
        with (self._folder / "agents.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def wait_for(self, what: str, number: int, *, timeout_s: float) -> dict[str, Happened]:
        """Wait until so many devices have done it; what else happens meanwhile is kept for later.

        Raises:
            TimeoutError: fewer have.
        """
        end_s, found, later = time.monotonic() + timeout_s, dict[str, Happened](), list[Happened]()
        while len(found) < number:
            try:
                one = self._happened.get(timeout=max(0.0, end_s - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{len(found)} of {number} {what} after {timeout_s:.0f} s") from None
            if one.what == what:
                found[one.device] = one
            else:
                later.append(one)
        for one in later:
            self._happened.put(one)
        return found

    def close(self) -> None:
        """End them."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(60)

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._happened.put(Happened(*json.loads(line)))


def _run_one(values: dict[str, object], parent: int) -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    settings = AgentSettings.model_validate({**values, "runner_command": tuple(WAITING_RUNNER)})
    identity = identities.load(Layout(settings.data_dir))
    if identity is None:
        return 1
    with identities.lock(Layout(settings.data_dir)):
        return WatchedAgent(settings, identity, runtimes=None).run()


def _fork(work: Callable[[], int]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = work()
    finally:
        os._exit(code)


def main(arguments: list[str]) -> int:
    """Start all, wait for the end of standard input, end all."""
    from edge_agent.protocol.base import build_late  # noqa: PLC0415  as `edge-agent start` does

    build_late()
    parent = os.getpid()
    gc.freeze()  # the pages of the imports stay shared
    specs = json.loads(Path(arguments[0]).read_text())
    children = [_fork(partial(_run_one, values, parent)) for values in specs]
    sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGTERM)
    for child in children:
        os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
