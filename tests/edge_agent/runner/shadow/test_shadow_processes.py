"""Two real runners with real models: one answers, the other is its shadow."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest

from edge_agent.protocol.shadow import ShadowPlan
from edge_agent.runner.control import Compared, Mirror, ShadowSpec
from tests.edge_agent.runner.conftest import Client, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.runner.control import RunnerSpec
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.runner.conftest import Runner

PLAN = ShadowPlan(deadline_s=600, samples=60, cpu_share=1.0, scores=True)


class Load:
    """Asks one thing after the other until it is told to stop."""

    def __init__(self, port: int, workshop: Workshop) -> None:
        self._client, self._stop = Client(port), threading.Event()
        self._rows = workshop.network.samples(50)
        self.statuses: list[int] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            row = self._rows[len(self.statuses) % len(self._rows)]
            tensor = {"name": "features", "shape": [1, 8], "datatype": "FP32", "data": row.tolist()}
            self.statuses.append(self._client.infer({"inputs": [tensor]})[0])


class Pair:
    """An active runner on a port, and a shadow with a port of its own."""

    def __init__(self, start: Callable[..., Runner], port_socket: socket.socket, folder: Path) -> None:
        self._start = start
        self.active, self.shadow_port = start(), listen()
        self.port = port_socket.getsockname()[1]
        self.path = folder / "copies.sock"
        self.copies = socket.socket(socket.AF_UNIX)
        self.copies.bind(str(self.path))
        self.copies.listen(8)

    def serve(self, spec: RunnerSpec) -> None:
        self.active.prove(spec)
        self.active.serve()

    def shadow(self, spec: RunnerSpec, plan: ShadowPlan = PLAN) -> Runner:
        runner: Runner = self._start(listening=[self.shadow_port, self.copies])
        shadow = ShadowSpec(plan=plan, descriptor=self.copies.fileno())
        runner.prove(spec.model_copy(update={"shadow": shadow}))
        self.active.send(Mirror(socket=self.path))
        return runner

    def close(self) -> None:
        self.copies.close()
        self.shadow_port.close()


@pytest.fixture
def pair(start: Callable[..., Runner], listening: socket.socket, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(start, listening, tmp_path)
    yield made
    made.close()


def test_shadow_in_int8_compares_itself_with_the_float_model_on_the_same_requests_and_then_serves(
    pair: Pair, workshop: Workshop, spec_of: Callable[..., RunnerSpec]
) -> None:
    pair.serve(spec_of())
    shadow = pair.shadow(spec_of(workshop.int8_file(), version="2"))
    with Load(pair.port, workshop) as load:
        report = shadow.wait_for(Compared, lambda said: said.report.samples == PLAN.samples).report
        assert report.agreed >= 0.9 * PLAN.samples
        assert report.errors == 0
        assert 0 < report.outputs[0].mean_difference < 0.05
        assert report.requests >= report.sampled == PLAN.samples
        assert min(report.active_p50_ms, report.p50_ms) > 0
        assert shadow.beats()[-1].inferences == 0, "it has answered nobody"

        shadow.listening = [pair.shadow_port]
        shadow.serve()

    assert set(load.statuses) == {200}
    answer = Client(pair.shadow_port.getsockname()[1])
    row = workshop.network.samples(1)
    tensor: dict[str, Any] = {"name": "features", "shape": [1, 8], "datatype": "FP32", "data": row[0].tolist()}
    status, document = answer.infer({"inputs": [tensor]})
    answer.close()
    assert (status, document["model_version"]) == (200, "2")
    np.testing.assert_allclose(document["outputs"][0]["data"], workshop.network.expected(row)[0], atol=0.1)


def test_shadow_of_another_network_says_that_it_disagrees(
    pair: Pair, workshop: Workshop, spec_of: Callable[..., RunnerSpec]
) -> None:
    other = workshop.with_network(seed=2).float_file()
    pair.serve(spec_of())
    shadow = pair.shadow(spec_of(other, version="2", tolerance=100.0))
    with Load(pair.port, workshop):
        report = shadow.wait_for(Compared, lambda said: said.report.samples == PLAN.samples).report
    assert report.agreed < 0.9 * PLAN.samples


def test_shadow_keeps_to_its_share_of_the_cpu_under_load(
    pair: Pair, workshop: Workshop, spec_of: Callable[..., RunnerSpec]
) -> None:
    plan = PLAN.model_copy(update={"cpu_share": 0.02, "samples": 10_000})
    pair.serve(spec_of())
    shadow = pair.shadow(spec_of(version="2"), plan)
    with Load(pair.port, workshop) as load:
        report = shadow.wait_for(Compared, lambda said: said.report.elapsed_s > 4).report
    assert report.samples > 0
    assert report.requests > 2 * report.sampled, "far more was answered than compared"
    one_request_s = 0.05
    assert report.cpu_s <= plan.cpu_share * (report.elapsed_s + 1.0) + one_request_s
    assert set(load.statuses) == {200}


def test_shadow_that_is_killed_is_not_noticed_by_clients(
    pair: Pair, workshop: Workshop, spec_of: Callable[..., RunnerSpec]
) -> None:
    pair.serve(spec_of())
    shadow = pair.shadow(spec_of(version="2"), PLAN.model_copy(update={"samples": 10_000}))
    with Load(pair.port, workshop) as load:
        shadow.wait_for(Compared)
        shadow.process.kill()
        shadow.process.wait(10)
        before = len(load.statuses)
        while len(load.statuses) < before + 50:
            assert load.alive
    assert set(load.statuses) == {200}


def test_shadow_whose_active_runner_is_another_now_begins_to_compare_anew(
    pair: Pair, start: Callable[..., Runner], workshop: Workshop, spec_of: Callable[..., RunnerSpec]
) -> None:
    plan = PLAN.model_copy(update={"samples": 10_000})
    pair.serve(spec_of())
    shadow = pair.shadow(spec_of(version="2"), plan)
    with Load(pair.port, workshop):
        shadow.wait_for(Compared, lambda said: said.report.samples >= 50)
    pair.active.drain(deadline_s=1.0)
    shadow.messages.clear()
    pair.active = start()
    pair.serve(spec_of(version="3"))
    pair.active.send(Mirror(socket=pair.path))

    client = Client(pair.port)
    tensor = {"name": "features", "shape": [1, 8], "datatype": "FP32", "data": [0.5] * 8}
    for _ in range(3):
        client.infer({"inputs": [tensor]})
    client.close()

    assert shadow.wait_for(Compared, lambda said: said.report.samples < 50).report.requests <= 3
