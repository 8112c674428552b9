"""What the application decides by the speed of its model: a real model, with a self-test that says that it is slow."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runner.app import RunnerApp
from edge_agent.runner.engine import Engine, Worker
from edge_agent.runner.http import COMPLETE_S
from edge_agent.runner.listener import Gate
from edge_agent.runner.windows import WindowMeter
from edge_agent.runtimes.convert import BoundModel
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop


@pytest.fixture
def slow_app(workshop: Workshop, manifest_of: Callable[..., VariantManifest]) -> RunnerApp:
    path = workshop.float_file()
    manifest = manifest_of(path, workshop.network.signature)
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.XNNPACK)
    model = BoundModel(loaded, manifest.signature, manifest.inputs, manifest.outputs)
    meter = WindowMeter(manifest, deployment_id="d-1", source="http", now_s=0.0, unix_s=0.0)
    return RunnerApp(manifest, Engine(model, Worker(), expected_ms=80.0), meter)


def infer(app: RunnerApp, body: bytes) -> tuple[int, dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    state = {COMPLETE_S: time.perf_counter()}
    scope = {"method": "POST", "path": "/v2/models/tiny/infer", "headers": [], "state": state}
    asyncio.run(app(Gate(), scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_infer_of_a_batch_that_would_take_too_long_is_refused_up_front(slow_app: RunnerApp, workshop: Workshop) -> None:
    def ask(rows: int) -> tuple[int, dict[str, Any]]:
        data = workshop.network.samples(rows).tolist()
        document = {"inputs": [{"name": "features", "shape": [rows, 8], "datatype": "FP32", "data": data}]}
        return infer(slow_app, json.dumps(document).encode())

    status, answer = ask(376)
    assert status == 400
    assert answer["error"] == "376 samples in one request, at most 375 are allowed, more would take over 30 s here"
    assert slow_app.meter.inferences == 0
    assert ask(375)[0] == 200
    assert slow_app.meter.inferences == 375
