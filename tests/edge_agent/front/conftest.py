"""A device with several models: real runners behind a real front, told what to do as the supervisor tells them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from edge_agent.runner.control import FROM_RUNNER, Drain, Drained, Routes, RunnerSpec, Serve, Serving, line
from tests.edge_agent.runner.conftest import Client, Runner, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.protocol.base import Wire
    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop

M = TypeVar("M")


class Front:
    """A front process, and what it has said."""

    def __init__(self, listening: socket.socket) -> None:
        self.control, theirs = socket.socketpair()
        self.control.settimeout(10)
        self.listening = listening
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_agent.front", "--control-fd", str(theirs.fileno())],
            pass_fds=(theirs.fileno(), listening.fileno()),
        )
        theirs.close()
        self._lines = self.control.makefile("rb")

    def send(self, message: Wire) -> None:
        self.control.sendall(line(message))

    def wait_for(self, kind: type[M]) -> M:
        for text in self._lines:
            message = FROM_RUNNER.validate_json(text)
            if isinstance(message, kind):
                return message
        pytest.fail(f"the front ended and never said {kind.__name__}")

    def serve(self, routes: dict[str, Path]) -> None:
        self.send(Routes(sockets=routes))
        self.send(Serve(descriptors=(self.listening.fileno(),)))
        self.wait_for(Serving)

    def drain(self, deadline_s: float = 10.0) -> None:
        self.send(Drain(deadline_s=deadline_s))
        self.wait_for(Drained)
        assert self.process.wait(10) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._lines.close()
        self.control.close()


class Device:
    """Models, their sockets, and the one port."""

    def __init__(self, folder: Path, workshop: Workshop, manifest_of: Callable[..., VariantManifest]) -> None:
        self.workshop, self._folder, self._manifest_of = workshop, folder, manifest_of
        self.port_socket = listen()
        self.port: int = self.port_socket.getsockname()[1]
        self.sockets: dict[str, socket.socket] = {}
        self._open: list[Runner | Front | Client] = []

    def path(self, model: str) -> Path:
        return self._folder / f"{model}.sock"

    def routes(self) -> dict[str, Path]:
        return {model: self.path(model) for model in self.sockets}

    def runner(self, model: str, *, version: str = "1", file: Path | None = None, also_tcp: bool = False) -> Runner:
        """A runner that serves on its model's socket; the model's file is float by default."""
        if model not in self.sockets:
            self.sockets[model] = socket.socket(socket.AF_UNIX)
            self.sockets[model].bind(str(self.path(model)))
            self.sockets[model].listen(128)
        path = file or self.workshop.float_file()
        manifest = self._manifest_of(path, self.workshop.network.signature, model=model, version=version)
        runner = Runner([self.sockets[model], *([self.port_socket] if also_tcp else [])])
        self._open.append(runner)
        runner.prove(
            RunnerSpec(
                deployment_id=f"{model}-{version}", manifest=manifest, model_path=path, probe_runs=2, window_s=60
            )
        )
        runner.serve()
        return runner

    def front(self) -> Front:
        """A front that serves all models which have had a runner."""
        front = Front(self.port_socket)
        self._open.append(front)
        front.serve(self.routes())
        return front

    def client(self) -> Client:
        client = Client(self.port)
        self._open.append(client)
        return client

    def close(self) -> None:
        for opened in self._open:
            opened.close()
        for listening in (self.port_socket, *self.sockets.values()):
            listening.close()


class Load:
    """Clients of one model that keep their connections and never retry."""

    def __init__(self, device: Device, model: str, *, clients: int = 2) -> None:
        self.versions: dict[str, int] = {}
        self.failures: list[str] = []
        self._device, self._model = device, model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(device.client(),)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, client: Client) -> None:
        body = request(self._device.workshop)
        while not self._stop.is_set():
            try:
                status, answer = client.infer(body, self._model)
            except OSError as exc:
                self.failures.append(repr(exc))
                return
            if status != 200:
                self.failures.append(f"{status} {answer}")
                return
            version = str(answer["model_version"])
            self.versions[version] = self.versions.get(version, 0) + 1

    def wait_for_more(self, version: str, *, count: int = 20) -> None:
        """Until this version has given some more answers."""
        wanted = self.versions.get(version, 0) + count
        ends_s = time.monotonic() + 20
        while self.versions.get(version, 0) < wanted and not self.failures:
            assert time.monotonic() < ends_s, f"no answers of version {version}: {self.versions}"
            time.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


def request(workshop: Workshop, rows: int = 1) -> dict[str, Any]:
    values = workshop.network.samples(rows)
    data = values.ravel().tolist()
    return {"inputs": [{"name": "features", "shape": list(values.shape), "datatype": "FP32", "data": data}]}


@pytest.fixture
def device(tmp_path: Path, workshop: Workshop, manifest_of: Callable[..., VariantManifest]) -> Iterator[Device]:
    made = Device(tmp_path, workshop, manifest_of)
    yield made
    made.close()
