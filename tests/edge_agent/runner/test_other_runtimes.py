"""Variants of one model on three runtimes: what an app sees is the same, and what is refused is refused in words."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.protocol.profile import Limits, RuntimeName
from edge_agent.protocol.states import Reason
from edge_agent.runner.control import RunnerSpec, Window
from tests.edge_agent.runner.test_swap import SteadyLoad, until
from tests.edge_agent.surroundings import onnx_files

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.runner.conftest import Client, Runner

OTHERS = [RuntimeName.ONNX, RuntimeName.EXECUTORCH]


def test_swaps_litert_onnx_executorch_under_load_lose_no_request(
    workshop: Workshop,
    listening: socket.socket,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    spec_of: Callable[..., RunnerSpec],
    float_file_for: Callable[[RuntimeName], Path],
    programs: Path,
) -> None:
    variants = [
        ("1", RuntimeName.LITERT, float_file_for(RuntimeName.LITERT)),
        ("2", RuntimeName.ONNX, float_file_for(RuntimeName.ONNX)),
        ("3", RuntimeName.EXECUTORCH, float_file_for(RuntimeName.EXECUTORCH)),
        ("4", RuntimeName.EXECUTORCH, programs / "int8.pte"),
    ]
    load = SteadyLoad(workshop, listening.getsockname()[1], connect)
    threads = [threading.Thread(target=load.run, args=(rows,), daemon=True) for rows in (1, 4)]
    running: Runner | None = None
    windows = []
    for version, runtime, file in variants:
        successor = start()
        assert successor.prove(spec_of(file, runtime=runtime, version=version)).report.runtime is runtime
        successor.serve()
        if running is None:
            for thread in threads:
                thread.start()
        else:
            running.drain()
            windows += [m.report for m in running.messages if isinstance(m, Window)]
        running = successor
        until(lambda version=version: load.has_answers_of(version), f"answers of version {version}")  # type: ignore[misc]
    load.stopped.set()
    for thread in threads:
        thread.join(10)
    assert running is not None
    running.drain()
    windows += [m.report for m in running.messages if isinstance(m, Window)]
    assert load.failures == []
    assert sum(window.requests for window in windows) == sum(load.answered.values())


@pytest.mark.parametrize("runtime", OTHERS)
def test_metadata_names_the_runtime_and_the_format(
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    spec_of: Callable[..., RunnerSpec],
    float_file_for: Callable[[RuntimeName], Path],
    runtime: RuntimeName,
) -> None:
    runner = start()
    runner.prove(spec_of(float_file_for(runtime), runtime=runtime, probe_runs=1))
    runner.serve()
    platform = connect().get("/v2/models/tiny")[1]["platform"]
    assert platform == {RuntimeName.ONNX: "onnx_onnx", RuntimeName.EXECUTORCH: "executorch_pte"}[runtime]


@pytest.mark.parametrize("runtime", OTHERS)
@pytest.mark.parametrize("damage", ["cut", "garbage", "other"])
def test_runner_with_a_corrupt_model_refuses_in_a_sentence(
    tmp_path: Path,
    start: Callable[..., Runner],
    spec_of: Callable[..., RunnerSpec],
    float_file_for: Callable[[RuntimeName], Path],
    workshop: Workshop,
    runtime: RuntimeName,
    damage: str,
) -> None:
    file = float_file_for(runtime)
    sound = spec_of(file, runtime=runtime)
    content = {
        "cut": file.read_bytes()[:-200],
        "garbage": b"\x07garbage" * 100,
        "other": workshop.float_file().read_bytes(),
    }[damage]
    path = tmp_path / "model"
    path.write_bytes(content)
    model = sound.manifest.model_file.model_copy(
        update={"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    )
    manifest = sound.manifest.model_copy(update={"files": (model, *sound.manifest.files[1:])})
    refused = start().refuse(sound.model_copy(update={"manifest": manifest, "model_path": path}))
    assert refused.reason is Reason.LOAD_FAILED
    assert "can't load model" in refused.detail or "is refused" in refused.detail


@pytest.mark.parametrize("runtime", OTHERS)
def test_runner_that_misses_its_golden_outputs_refuses(
    start: Callable[..., Runner],
    spec_of: Callable[..., RunnerSpec],
    float_file_for: Callable[[RuntimeName], Path],
    runtime: RuntimeName,
) -> None:
    refused = start().refuse(spec_of(float_file_for(runtime), runtime=runtime, wrong_by=0.5, tolerance=0.01))
    assert refused.reason is Reason.GOLDEN_MISMATCH


@pytest.mark.parametrize("runtime", OTHERS)
def test_runner_over_its_memory_limit_refuses(
    start: Callable[..., Runner],
    spec_of: Callable[..., RunnerSpec],
    float_file_for: Callable[[RuntimeName], Path],
    runtime: RuntimeName,
) -> None:
    spec = spec_of(float_file_for(runtime), runtime=runtime, limits=Limits(ram_bytes=1))
    assert start().refuse(spec).reason is Reason.MEMORY_LIMIT


@pytest.mark.parametrize("runtime", OTHERS)
def test_runner_given_an_id_beyond_the_table_says_so_and_lives(
    workshop: Workshop,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    manifest_of: Callable[..., VariantManifest],
    programs: Path,
    runtime: RuntimeName,
) -> None:
    _, signature = workshop.embedding_file()
    table = np.arange(40, dtype=np.float32).reshape(10, 4)
    path = programs / "embedding.pte"
    if runtime is RuntimeName.ONNX:
        path = onnx_files.write_embedding(workshop.folder / "embedding.onnx", table)
    runner = start()
    manifest = manifest_of(path, signature, runtime=runtime)
    runner.prove(RunnerSpec(deployment_id="d", manifest=manifest, model_path=path))
    runner.serve()
    client = connect()
    tensor = {"name": "ids", "shape": [2], "datatype": "INT32", "data": [9, 0]}
    for bad in (10, 2**31 - 1):
        status, answer = client.infer({"inputs": [{**tensor, "data": [0, bad]}]})
        assert status == 400
        assert "can't be run on these inputs" in answer["error"]
    assert client.infer({"inputs": [tensor]})[1]["outputs"][0]["data"] == [36, 37, 38, 39, 0, 1, 2, 3]


def test_runner_of_a_small_onnx_file_that_takes_gigabytes_refuses_it_for_its_memory(
    workshop: Workshop, start: Callable[..., Runner], manifest_of: Callable[..., VariantManifest]
) -> None:
    _, signature = workshop.hungry_file()
    rows, columns = signature.outputs[0].shape
    path = onnx_files.write_hungry(workshop.folder / "hungry.onnx", rows=rows, columns=columns)
    manifest = manifest_of(path, signature, runtime=RuntimeName.ONNX)
    spec = RunnerSpec(deployment_id="d", manifest=manifest, model_path=path, address_space_bytes=512 << 20)
    refused = start().refuse(spec)
    assert refused.reason is Reason.MEMORY_LIMIT, refused
