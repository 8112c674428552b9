"""Runners as real processes, driven over their control socket as the supervisor drives them."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from edge_agent.protocol.profile import RuntimeName
from edge_agent.runner.control import (
    FROM_RUNNER,
    Beat,
    Drain,
    Drained,
    Proven,
    Refused,
    RunnerSpec,
    Serve,
    Serving,
    line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.protocol.base import Wire
    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop

M = TypeVar("M")


class Runner:
    """A runner process and everything it has said."""

    def __init__(self, listening: list[socket.socket], *, python: str = sys.executable) -> None:
        ours, theirs = socket.socketpair()
        self.control = ours
        self.listening = listening
        descriptors = (theirs.fileno(), *(s.fileno() for s in listening))
        self.process = subprocess.Popen(
            [python, "-m", "edge_agent.runner", "--control-fd", str(theirs.fileno())],
            pass_fds=descriptors,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self.messages: list[Any] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.control.makefile("rb") as lines:
            try:
                for text in lines:
                    with self._changed:
                        self.messages.append(FROM_RUNNER.validate_json(text))
                        self._changed.notify_all()
            except OSError:
                return

    def send(self, message: Wire) -> None:
        self.control.sendall(line(message))

    def wait_for(self, kind: type[M], condition: Callable[[M], bool] = lambda _: True, *, timeout_s: float = 20) -> M:
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._changed:
            while True:
                for message in self.messages[seen:]:
                    if isinstance(message, kind) and condition(message):
                        return message
                seen = len(self.messages)
                if not self._changed.wait(deadline - time.monotonic()):
                    pytest.fail(f"no {kind.__name__} after {timeout_s} s, only {self.messages}")

    def prove(self, spec: RunnerSpec) -> Proven:
        self.send(spec)
        outcome = self.wait_for(object, lambda m: isinstance(m, (Proven, Refused)))
        assert isinstance(outcome, Proven), outcome
        return outcome

    def refuse(self, spec: RunnerSpec) -> Refused:
        self.send(spec)
        outcome = self.wait_for(object, lambda m: isinstance(m, (Proven, Refused)))
        assert isinstance(outcome, Refused), outcome
        assert self.process.wait(10) == 0
        return outcome

    def serve(self) -> None:
        self.send(Serve(descriptors=tuple(s.fileno() for s in self.listening)))
        self.wait_for(Serving)

    def drain(self, deadline_s: float = 10.0) -> None:
        self.send(Drain(deadline_s=deadline_s))
        self.wait_for(Drained)
        assert self.process.wait(10) == 0

    def beats(self) -> list[Beat]:
        return [message for message in self.messages if isinstance(message, Beat)]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.control.shutdown(socket.SHUT_RDWR)
        self._reader.join(10)
        self.control.close()
        assert self.process.stderr is not None
        sys.stderr.write(self.process.stderr.read().decode(errors="replace")[-3000:])  # pytest shows it on failure
        self.process.stderr.close()


class Client:
    """A plain HTTP/1.1 client that keeps its connection and never retries."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.headers: dict[str, str] = {}

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        content = response.read()
        self.headers = {key.lower(): value for key, value in response.getheaders()}
        binary = self.headers.get("content-type") == "application/octet-stream"
        return response.status, content if binary else json.loads(content)

    def get(self, path: str) -> tuple[int, Any]:
        return self.ask("GET", path)

    def infer(self, document: object, model: str = "tiny") -> tuple[int, Any]:
        return self.ask("POST", f"/v2/models/{model}/infer", json.dumps(document).encode())

    def close(self) -> None:
        self.connection.close()


def listen() -> socket.socket:
    """A listening socket on a free loopback port."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with listen() as opened:
        yield opened


@pytest.fixture
def start(listening: socket.socket) -> Iterator[Callable[..., Runner]]:
    """Start runners; all are gone after the test."""
    runners: list[Runner] = []

    def start_one(**options: Any) -> Runner:  # noqa: ANN401  of Runner
        runner = Runner(options.pop("listening", [listening]), **options)
        runners.append(runner)
        return runner

    yield start_one
    for runner in runners:
        runner.close()


@pytest.fixture
def connect(listening: socket.socket) -> Iterator[Callable[..., Client]]:
    """Connect to the shared port; all is closed after the test."""
    clients: list[Client] = []

    def connect_one(port: int | None = None) -> Client:
        client = Client(port or listening.getsockname()[1])
        clients.append(client)
        return client

    yield connect_one
    for client in clients:
        client.close()


def make_spec(
    workshop: Workshop,
    manifest_of: Callable[..., VariantManifest],
    path: Path | None = None,
    *,
    wrong_by: float = 0.0,
    tolerance: float = 0.08,
    runtime: RuntimeName = RuntimeName.LITERT,
    version: str = "1",
    **fields: Any,  # noqa: ANN401  of RunnerSpec
) -> RunnerSpec:
    """A spec for a file of the workshop's network, golden data included."""
    golden = workshop.golden_file(wrong_by=wrong_by)
    file = path or workshop.float_file()
    manifest = manifest_of(
        file, workshop.network.signature, golden=(golden, tolerance), runtime=runtime, version=version
    )
    return RunnerSpec(deployment_id=f"d-{version}", manifest=manifest, model_path=file, golden_path=golden, **fields)


@pytest.fixture
def spec_of(workshop: Workshop, manifest_of: Callable[..., VariantManifest]) -> Callable[..., RunnerSpec]:
    return partial(make_spec, workshop, manifest_of)


@dataclass(frozen=True)
class Shared:
    """One runner that serves the workshop's network to every test of a file."""

    runner: Runner
    workshop: Workshop
    port: int


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
    workshop_at: Callable[[Path], Workshop],
    manifest_of: Callable[..., VariantManifest],
) -> Iterator[Shared]:
    workshop = workshop_at(tmp_path_factory.mktemp("models"))
    with listen() as listening:
        runner = Runner([listening])
        try:
            runner.prove(make_spec(workshop, manifest_of, probe_runs=1))
            runner.serve()
            yield Shared(runner, workshop, listening.getsockname()[1])
            assert runner.process.poll() is None, "the shared runner died"
        finally:
            runner.close()
