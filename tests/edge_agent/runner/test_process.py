from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from edge_agent.protocol.profile import FileFormat, Limits, RuntimeName
from edge_agent.protocol.states import Reason
from edge_agent.runner.control import Beat, Drained, RunnerSpec, SetWindow, Window, line
from edge_agent.supervisor.runners import address_space_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.runner.conftest import Client, Runner


@pytest.mark.parametrize("runtime", list(RuntimeName))
def test_runner_on_each_runtime_proves_serves_and_drains(
    workshop: Workshop,
    tflite_python: Path,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    spec_of: Callable[..., RunnerSpec],
    float_file_for: Callable[[RuntimeName], Path],
    runtime: RuntimeName,
) -> None:
    runner = start(python=str(tflite_python)) if runtime is RuntimeName.TFLITE else start()
    report = runner.prove(spec_of(float_file_for(runtime), runtime=runtime)).report
    assert report.passed
    assert report.runtime is runtime
    assert report.runs == 30
    assert 0 < report.p50_ms <= report.p95_ms
    assert report.golden_max_error is not None
    assert report.golden_max_error < 1e-5
    runner.serve()
    samples = workshop.network.samples(3)
    client = connect()
    tensor = {"name": "features", "shape": [3, 8], "datatype": "FP32", "data": samples.ravel().tolist()}
    status, answer = client.infer({"id": "a7", "inputs": [tensor]})
    assert status == 200, answer
    assert (answer["id"], answer["model_version"]) == ("a7", "1")
    assert answer["outputs"][0]["shape"] == [3, 4]
    np.testing.assert_allclose(
        np.reshape(answer["outputs"][0]["data"], (3, 4)), workshop.network.expected(samples), atol=1e-5
    )
    client.close()
    runner.wait_for(Beat, lambda beat: beat.inferences == 3)
    runner.drain()
    window = runner.wait_for(Window).report
    assert (window.requests, window.inferences, window.errors) == (1, 3, {})
    assert window.invoke.count == window.queue.count == window.preprocess.count == 1
    assert window.rss_bytes > 1 << 20


def test_runner_whose_file_was_changed_on_disk_refuses(
    start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]
) -> None:
    spec = spec_of()
    data = bytearray(spec.model_path.read_bytes())
    data[200] ^= 1
    spec.model_path.write_bytes(data)
    refused = start().refuse(spec)
    assert refused.reason is Reason.DIGEST_MISMATCH
    assert "manifest says" in refused.detail


def test_runner_whose_file_is_gone_refuses(start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]) -> None:
    spec = spec_of()
    spec.model_path.unlink()
    assert start().refuse(spec).reason is Reason.LOAD_FAILED


def test_runner_with_a_corrupt_model_refuses_with_the_runtime_s_words(
    workshop: Workshop, start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]
) -> None:
    spec = spec_of()
    broken = workshop.folder / "broken.tflite"
    broken.write_bytes(b"TFL3" * 100)

    file = spec.manifest.files[0].model_copy(update={"sha256": hashlib.sha256(broken.read_bytes()).hexdigest()})
    manifest = spec.manifest.model_copy(update={"files": (file, *spec.manifest.files[1:])})
    refused = start().refuse(spec.model_copy(update={"manifest": manifest, "model_path": broken}))
    assert refused.reason is Reason.LOAD_FAILED
    assert "broken.tflite" in refused.detail
    assert refused.report is not None
    assert not refused.report.passed


def test_runner_that_misses_its_golden_outputs_refuses(
    start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]
) -> None:
    refused = start().refuse(spec_of(wrong_by=0.5))
    assert refused.reason is Reason.GOLDEN_MISMATCH
    assert "off by 0.5" in refused.detail


def test_runner_slower_than_its_limit_refuses_with_the_figure(
    start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]
) -> None:
    refused = start().refuse(spec_of(limits=Limits(latency_p95_ms=1e-5)))
    assert refused.reason is Reason.LATENCY_LIMIT
    assert refused.report is not None
    assert refused.report.p95_ms > 1e-5


def test_runner_that_adds_more_memory_than_its_limit_refuses(
    start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]
) -> None:
    assert start().refuse(spec_of(limits=Limits(ram_bytes=1))).reason is Reason.MEMORY_LIMIT


def test_runner_without_its_runtime_refuses(start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]) -> None:
    refused = start().refuse(spec_of(runtime=RuntimeName.TFLITE))
    assert refused.reason is Reason.RUNTIME_MISSING


def test_runner_for_a_self_test_only_leaves_after_it(
    start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of(serving=False))
    assert runner.process.wait(10) == 0


def test_runner_whose_address_space_is_too_small_is_no_harm_to_others(
    workshop: Workshop,
    start: Callable[..., Runner],
    spec_of: Callable[..., RunnerSpec],
    manifest_of: Callable[..., VariantManifest],
) -> None:
    big = workshop.with_network(features=2048, hidden=8192)
    rows = big.network.samples(1)
    golden = big.folder / "golden.npz"
    np.savez(golden, in_0=rows, out_0=big.network.expected(rows))
    small, path = spec_of(), big.float_file()
    assert path.stat().st_size > 64 << 20

    spec = small.model_copy(
        update={
            "manifest": manifest_of(path, big.network.signature, golden=(golden, 1e-3)),
            "model_path": path,
            "golden_path": golden,
        }
    )
    first = start()
    first.prove(small)
    second = start()
    refused = second.refuse(spec.model_copy(update={"address_space_bytes": 60 << 20}))
    assert refused.reason is Reason.MEMORY_LIMIT, refused
    assert first.process.poll() is None


def test_runner_of_a_small_file_that_takes_gigabytes_refuses_it_for_its_memory(
    workshop: Workshop, start: Callable[..., Runner], manifest_of: Callable[..., VariantManifest]
) -> None:
    path, signature = workshop.hungry_file()
    space_bytes = address_space_for(path.stat().st_size, memory_bytes=256 << 20)
    spec = RunnerSpec(
        deployment_id="d",
        manifest=manifest_of(path, signature),
        model_path=path,
        address_space_bytes=space_bytes,
    )
    refused = start().refuse(spec)
    assert refused.reason is Reason.MEMORY_LIMIT, refused
    assert f"may take {space_bytes} bytes" in refused.detail


def test_runner_windows_are_cut_at_the_interval_and_empty_ones_are_not_sent(
    workshop: Workshop, start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of(window_s=60.0))
    runner.serve()
    runner.send(SetWindow(window_s=0.2))
    tensor = {"name": "features", "shape": [1, 8], "datatype": "FP32", "data": workshop.network.samples(1)[0].tolist()}
    client = connect()
    assert client.infer({"inputs": [tensor]})[0] == 200
    assert client.infer({"inputs": [tensor, tensor]})[0] == 400
    runner.wait_for(Window)
    time.sleep(0.5)
    windows = [m.report for m in runner.messages if isinstance(m, Window)]
    assert sum(w.requests for w in windows) == 2
    assert sum(w.inferences for w in windows) == 1
    assert windows[-1].errors == {"bad_request": 1}
    assert len(windows) <= 2


def test_runner_when_its_supervisor_dies_leaves_by_itself(
    start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of())
    runner.serve()
    client = connect()
    assert client.get("/v2/health/live") == (200, {"live": True})
    runner.control.shutdown(2)
    began = time.monotonic()
    runner.process.wait(8)
    assert time.monotonic() - began < 6


SUPERVISOR = """
import pathlib, socket, subprocess, sys
ours, theirs = socket.socketpair()
command = [sys.executable, "-m", "edge_agent.runner", "--control-fd", str(theirs.fileno())]
runner = subprocess.Popen(command, pass_fds=[theirs.fileno()])
theirs.close()
ours.sendall(pathlib.Path(sys.argv[1]).read_bytes())
for text in ours.makefile():
    if '"proven"' in text:
        print(runner.pid, flush=True)
"""


def test_runner_when_its_supervisor_is_killed_minus_nine_follows(
    tmp_path: Path, spec_of: Callable[..., RunnerSpec]
) -> None:
    order = tmp_path / "spec"
    order.write_bytes(line(spec_of()))
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(order)], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        runner = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
        assert psutil.wait_procs([runner], timeout=8)[1] == []


def test_runner_that_hangs_when_its_supervisor_dies_ends_too(
    start: Callable[..., Runner], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of())
    runner.serve()
    runner.process.send_signal(signal.SIGSTOP)
    runner.control.shutdown(2)
    time.sleep(0.2)
    runner.process.send_signal(signal.SIGCONT)
    runner.process.wait(8)


def test_runner_told_to_terminate_answers_what_is_open_and_ends(
    start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of())
    runner.serve()
    client = connect()
    client.get("/v2")
    os.kill(runner.process.pid, signal.SIGTERM)
    time.sleep(0.3)
    assert client.get("/v2/health/live")[0] == 200
    assert client.headers["connection"] == "close"
    runner.wait_for(Drained)
    assert runner.process.wait(5) == 0


def test_runner_that_leaves_says_last_what_it_has_answered_in_all(
    workshop: Workshop, start: Callable[..., Runner], connect: Callable[..., Client], spec_of: Callable[..., RunnerSpec]
) -> None:
    runner = start()
    runner.prove(spec_of())
    runner.serve()
    client = connect()
    row = workshop.network.samples(1).ravel().tolist()
    for _ in range(25):
        request = {"inputs": [{"name": "features", "shape": [1, 8], "datatype": "FP32", "data": row}]}
        assert client.infer(request)[0] == 200
    client.close()
    runner.drain()
    assert runner.beats()[-1].inferences == 25


def test_runner_given_garbage_instead_of_a_spec_ends(start: Callable[..., Runner]) -> None:
    runner = start()
    runner.control.sendall(b"{not json}\n")
    assert runner.process.wait(10) != 0


@pytest.mark.parametrize("runtime", FileFormat.TFLITE.runtimes)
def test_runner_given_an_id_that_the_table_does_not_have_says_so_and_lives(
    workshop: Workshop,
    tflite_python: Path,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    manifest_of: Callable[..., VariantManifest],
    runtime: RuntimeName,
) -> None:
    path, signature = workshop.embedding_file()
    runner = start(python=str(tflite_python)) if runtime is RuntimeName.TFLITE else start()
    manifest = manifest_of(path, signature, runtime=runtime)
    runner.prove(RunnerSpec(deployment_id="d", manifest=manifest, model_path=path))
    runner.serve()
    client = connect()
    tensor = {"name": "ids", "shape": [2], "datatype": "INT32", "data": [9, 0]}
    assert client.infer({"inputs": [tensor]})[1]["outputs"][0]["data"] == [36, 37, 38, 39, 0, 1, 2, 3]
    for bad in (10, -1, 2**31 - 1):
        status, answer = client.infer({"inputs": [{**tensor, "data": [0, bad]}]})
        assert status == 400
        assert "can't be run on these inputs" in answer["error"]
    status, answer = client.infer({"inputs": [{**tensor, "data": [0, 2**31]}]})
    assert (status, "INT32 can hold" in answer["error"]) == (400, True)
    assert client.infer({"inputs": [tensor]})[0] == 200
    client.close()
    runner.drain()
    assert runner.wait_for(Window).report.errors == {"invoke_failed": 3, "bad_request": 1}


def test_runner_without_memory_for_a_request_refuses_it_and_serves_the_next(
    workshop: Workshop,
    start: Callable[..., Runner],
    connect: Callable[..., Client],
    manifest_of: Callable[..., VariantManifest],
) -> None:
    wide = workshop.with_network(features=1024)
    path = wide.float_file()
    spec = RunnerSpec(
        deployment_id="d", manifest=manifest_of(path, wide.network.signature), model_path=path, probe_runs=1
    )
    runner = start()
    runner.prove(spec.model_copy(update={"address_space_bytes": 64 << 20}))
    runner.serve()
    client = connect()

    def ask(rows: int) -> tuple[int, Any]:
        data = wide.network.samples(rows).ravel().tolist()
        return client.infer({"inputs": [{"name": "features", "shape": [rows, 1024], "datatype": "FP32", "data": data}]})

    status_code, answer = ask(500)
    assert status_code == 413
    assert "not enough memory" in answer["error"]
    assert ask(1)[0] == 200
    status_code, answer = ask(1000)
    assert status_code == 413
    assert "send the tensors as binary data" in answer["error"]
    assert ask(1)[0] == 200
