"""`edge-agent infer` with a real model behind a Unix socket: served by this process, asked by another."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.layout import Layout
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runner.app import RunnerApp
from edge_agent.runner.engine import Engine, Worker
from edge_agent.runner.listener import Listener
from edge_agent.runner.windows import WindowMeter
from edge_agent.runtimes.convert import BoundModel
from edge_agent.runtimes.registry import open_runtime
from edge_agent.supervisor.listeners import listen_unix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop


@pytest.fixture
def served(tmp_path: Path, workshop: Workshop, manifest_of: Callable[..., VariantManifest]) -> Iterator[Path]:
    """The data directory of an agent that serves `lookup`: one INT32 input `ids`, ten rows of four numbers."""
    path, signature = workshop.embedding_file()
    manifest = manifest_of(path, signature, model="lookup")
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.NONE)
    model = BoundModel(loaded, manifest.signature, manifest.inputs, manifest.outputs)
    meter = WindowMeter(manifest, deployment_id="d-1", source="http", now_s=0.0, unix_s=0.0)
    layout = Layout(tmp_path / "agent")
    layout.run_dir.mkdir(parents=True)
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        with listen_unix(layout.model_socket("lookup")) as listening:
            listener = Listener(RunnerApp(manifest, Engine(model, Worker(), expected_ms=0.01), meter))
            await listener.accept([listening.fileno()])
            ready.set()
            await asyncio.to_thread(stop.wait)
            await listener.drain(1.0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield layout.root
    stop.set()
    thread.join(10)


def infer(data_dir: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edge_agent.cli", "infer", "lookup", "--data-dir", str(data_dir), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=30, check=False)


def npz(**arrays: Any) -> bytes:  # noqa: ANN401  what numpy makes an array of
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


ROW_3 = b"vectors FP32 [1, 4]\n[12.0, 13.0, 14.0, 15.0]\n"


@pytest.mark.parametrize("content", [b'{"ids": [3]}', npz(ids=np.array([3], dtype=np.int64))], ids=["json", "npz"])
@pytest.mark.parametrize("source", ["text", "file", "stdin"])
def test_infer_sends_what_the_metadata_asks_for(served: Path, source: str, content: bytes) -> None:
    if source == "text":
        result = infer(served, '{"ids": [3]}')
    elif source == "file":
        (served / "inputs").write_bytes(content)
        result = infer(served, str(served / "inputs"))
    else:
        result = infer(served, "-", stdin=content)
    assert (result.returncode, result.stderr, result.stdout) == (0, b"", ROW_3)


def test_infer_json_is_the_answer_of_the_protocol(served: Path) -> None:
    result = infer(served, '{"ids": [3, 0]}', "--json")
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["model_name"], answer["model_version"]) == ("lookup", "1")
    assert answer["outputs"] == [
        {"name": "vectors", "datatype": "FP32", "shape": [2, 4], "data": [12, 13, 14, 15, 0, 1, 2, 3]}
    ]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (b'{"inputs": [3]}', "model lookup has no input 'inputs': its inputs are ids (INT32 [-1])"),
        (b'{"ids": [3.5]}', "model lookup refused: the data of input ids must be numbers that INT32 can hold"),
        (b'{"ids": "3"}', "model lookup refused: input ids has the shape [-1], got []"),
        (b'{"ids": [NaN]}', "the inputs hold NaN or infinity: send finite numbers"),
        (npz(ids=np.array([1 + 2j])), "the inputs are no numbers"),
        (npz(ids=np.array([{}], dtype=object)), "standard input can't be read as an .npz of plain arrays"),
        (npz(ids=np.array([3]))[:-9], "standard input can't be read as an .npz of plain arrays"),
        (b"\xff\xfe", "standard input is neither JSON nor an .npz"),
    ],
)
def test_infer_with_bad_inputs_is_one_sentence(served: Path, inputs: bytes, sentence: str) -> None:
    result = infer(served, "-", stdin=inputs)
    assert (result.returncode, result.stdout) == (1, b"")
    assert sentence in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1
