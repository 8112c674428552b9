"""Two runners on one inherited socket: nobody who infers may notice the swap."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.runner.control import Beat, Drain, Drained, Serve, Serving, SetWindow, StopAccepting, Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.runner.control import RunnerSpec
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.runner.conftest import Client, Runner


@dataclass
class SteadyLoad:
    """Clients that keep their connection as long as the server does, never retry, and check every answer."""

    workshop: Workshop
    port: int
    connect: Callable[..., Client]
    pause_s: float = 0.002
    answered: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    connections: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, rows: int) -> None:
        samples = self.workshop.network.samples(rows)
        expected = self.workshop.network.expected(samples)
        tensor = {"name": "features", "shape": [rows, 8], "datatype": "FP32", "data": samples.ravel().tolist()}
        client = self.connect(self.port)
        fresh = True
        while not self.stopped.is_set():
            self.connections += fresh
            try:
                status, answer = client.infer({"inputs": [tensor]})
            except OSError as exc:
                self.failures.append(f"{type(exc).__name__} {exc}, fresh={fresh}")
                return
            if status != 200:
                self.failures.append(f"{status} {answer}")
                return
            scores = np.reshape(answer["outputs"][0]["data"], (rows, 4))
            if np.abs(scores - expected).max() > 0.08:
                self.failures.append(f"wrong numbers from version {answer['model_version']}")
            with self._lock:
                self.answered[answer["model_version"]] = self.answered.get(answer["model_version"], 0) + 1
            fresh = client.headers.get("connection") == "close"
            time.sleep(self.pause_s)
        client.close()

    def has_answers_of(self, version: str) -> bool:
        return self.answered.get(version, 0) >= 5


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def test_swaps_float_int8_uint8_under_load_lose_no_request(
    workshop: Workshop,
    listening: socket.socket,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    spec_of: Callable[..., RunnerSpec],
) -> None:
    files = {"1": workshop.float_file(), "2": workshop.int8_file(), "3": workshop.uint8_file()}
    load = SteadyLoad(workshop, listening.getsockname()[1], connect)
    running = start()
    running.prove(spec_of(files["1"]))
    running.serve()
    threads = [threading.Thread(target=load.run, args=(rows,), daemon=True) for rows in (1, 4, 1, 4)]
    for thread in threads:
        thread.start()
    until(lambda: load.has_answers_of("1"), "answers of version 1")
    windows = []
    for version in ("2", "3"):
        successor = start()
        successor.prove(spec_of(files[version], version=version))
        successor.serve()
        running.drain()
        windows += [m.report for m in running.messages if isinstance(m, Window)]
        running = successor
        until(lambda version=version: load.has_answers_of(version), f"answers of version {version}")  # type: ignore[misc]
    load.stopped.set()
    for thread in threads:
        thread.join(10)
    running.drain()
    windows += [m.report for m in running.messages if isinstance(m, Window)]
    assert load.failures == []
    assert load.connections >= 12  # each client connected again at each swap, because it was told to
    # and the telemetry of the three runners counts every request exactly once
    assert sum(window.requests for window in windows) == sum(load.answered.values())
    assert {window.version for window in windows} == {"1", "2", "3"}


def test_drain_answers_an_idle_connection_once_more_and_says_close(
    workshop: Workshop, start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    del workshop
    runner = start()
    runner.prove(spec_of())
    runner.serve()
    client = connect()
    client.get("/v2")
    assert "connection" not in client.headers
    runner.send(Drain(deadline_s=30))
    time.sleep(0.3)
    assert runner.process.poll() is None
    assert client.get("/v2/models/tiny")[0] == 200
    assert client.headers["connection"] == "close"
    runner.wait_for(Drained, timeout_s=5)
    assert runner.process.wait(5) == 0


def test_drain_whose_deadline_is_over_closes_idle_connections(
    start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of())
    runner.serve()
    connect().get("/v2")
    began = time.monotonic()
    runner.drain(deadline_s=0.5)
    assert 0.4 < time.monotonic() - began < 5


def test_drain_told_again_takes_the_new_deadline_and_nothing_else_moves_it(
    start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of())
    runner.serve()
    connect().get("/v2")
    runner.send(Drain(deadline_s=60))
    runner.control.sendall(b'{"kind":"of tomorrow"}\nnot json\n')
    runner.send(SetWindow(window_s=5))
    time.sleep(0.3)
    assert runner.process.poll() is None
    runner.drain(deadline_s=0.2)


def test_drain_leaves_the_backlog_to_the_successor(
    start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    first, second = start(), start()
    first.prove(spec_of())
    first.serve()
    first.drain()
    client = connect()
    client.connection.connect()  # accepted by the kernel, nobody serves: it waits
    second.prove(spec_of(version="2"))
    second.serve()
    assert client.get("/v2/models/tiny")[1]["versions"] == ["2"]


def test_runner_serves_a_unix_socket_and_gives_up_the_port_to_others(
    workshop: Workshop,
    listening: socket.socket,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    spec_of: Callable[..., RunnerSpec],
) -> None:
    with socket.socket(socket.AF_UNIX) as local:
        path = str(workshop.folder / "tiny.sock")
        local.bind(path)
        local.listen(16)
        runner = start(listening=[listening, local])
        runner.prove(spec_of())
        runner.serve()
        client = connect()
        assert client.get("/v2/models/other")[0] == 404
        runner.send(StopAccepting(descriptors=(listening.fileno(),)))
        runner.send(Serve(descriptors=()))
        until(lambda: sum(isinstance(m, Serving) for m in runner.messages) == 2, "both orders were carried out")
        # the old connection is sent away, to whoever has the port now
        assert client.get("/v2/models/other")[0] == 421
        assert client.headers["connection"] == "close"
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(5)
            raw.connect(path)
            raw.sendall(b"GET /v2/models/tiny/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 200 OK")
        runner.drain()


def test_long_invoke_shows_as_busy_while_the_runner_answers_others(
    workshop: Workshop,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    spec_of: Callable[..., RunnerSpec],
    manifest_of: Callable[..., VariantManifest],
) -> None:
    slow = workshop.with_network(features=1024, hidden=4096)
    path = slow.float_file()
    manifest = manifest_of(path, slow.network.signature)
    runner = start()
    runner.prove(spec_of().model_copy(update={"manifest": manifest, "model_path": path, "golden_path": None}))
    runner.serve()
    rows = slow.network.samples(400)
    tensor = {
        "name": "features",
        "shape": [400, 1024],
        "datatype": "FP32",
        "parameters": {"binary_data_size": rows.nbytes},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answers = []

    seen_busy = threading.Event()

    def ask() -> None:
        client = connect()
        while not seen_busy.is_set():
            answers.append(client.ask("POST", "/v2/models/tiny/infer", head + rows.tobytes(), headers))
        client.close()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    runner.wait_for(Beat, lambda beat: beat.busy_ms > 0)
    began = time.monotonic()
    client = connect()
    assert client.get("/v2/health/live")[0] == 200
    assert time.monotonic() - began < 1
    client.close()
    seen_busy.set()
    for thread in threads:
        thread.join(60)
    assert {status for status, _ in answers} == {200}
    scores = np.reshape(answers[0][1]["outputs"][0]["data"], (400, 4))
    np.testing.assert_allclose(scores, slow.network.expected(rows), atol=1e-3)
    runner.drain()
    report = runner.wait_for(Window).report
    assert report.requests == len(answers)
    assert report.queue.max_ms > report.invoke.min_ms  # one request at a time: the others waited
