"""tritonclient with its default settings (which means binary tensors) against a real runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton

from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from edge_agent.runner.control import RunnerSpec
    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.runner.conftest import Runner, Shared


@pytest.fixture
def client(shared: Shared) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{shared.port}") as opened:
        yield opened


def request(rows: Any) -> list[Any]:  # noqa: ANN401  tritonclient has no types
    tensor = triton.InferInput("features", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def test_tritonclient_lists_and_describes(client: Any) -> None:  # noqa: ANN401
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "2")
    assert client.get_server_metadata()["name"] == "shoal"
    assert client.get_model_metadata("tiny")["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 8]}]
    assert client.get_model_repository_index() == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]


def test_tritonclient_infers_the_very_tensors_of_the_interpreter(client: Any, shared: Shared) -> None:  # noqa: ANN401
    rows = shared.workshop.network.samples(1)
    interpreter = open_runtime(RuntimeName.LITERT)
    model = interpreter.load(shared.workshop.float_file(), threads=1, delegate=Delegate.XNNPACK)
    (expected,) = model.invoke([rows])
    result = client.infer("tiny", request(rows), request_id="t1")
    np.testing.assert_array_equal(result.as_numpy("scores"), expected)
    assert result.get_response()["id"] == "t1"
    wanted = [triton.InferRequestedOutput("scores")]
    np.testing.assert_array_equal(client.infer("tiny", request(rows), outputs=wanted).as_numpy("scores"), expected)
    wanted = [triton.InferRequestedOutput("scores", binary_data=False)]
    np.testing.assert_array_equal(client.infer("tiny", request(rows), outputs=wanted).as_numpy("scores"), expected)
    assert client.get_inference_statistics("tiny")["model_stats"][0]["inference_count"] >= 3


def test_tritonclient_hears_what_was_wrong(client: Any) -> None:  # noqa: ANN401
    with pytest.raises(triton.InferenceServerException, match="has the shape"):
        client.infer("tiny", request(np.zeros((1, 9), dtype=np.float32)))
    with pytest.raises(triton.InferenceServerException, match="no model"):
        client.infer("other", request(np.zeros((1, 8), dtype=np.float32)))


def test_tritonclient_sends_the_same_request_through_swaps_float_int8_uint8(
    workshop: Workshop,
    listening: socket.socket,
    start: Callable[..., Runner],
    spec_of: Callable[..., RunnerSpec],
) -> None:
    files = {"1": workshop.float_file(), "2": workshop.int8_file(), "3": workshop.uint8_file()}
    running: Runner | None = None
    with triton.InferenceServerClient(f"127.0.0.1:{listening.getsockname()[1]}") as client:
        for version, path in files.items():
            successor = start()
            successor.prove(spec_of(path, version=version, probe_runs=1))
            successor.serve()
            if running is not None:
                running.drain(deadline_s=0.2)
            running = successor
            for batch in (1, 4):
                rows = workshop.network.samples(batch)
                result = client.infer("tiny", request(rows))
                assert result.get_response()["model_version"] == version
                scores = result.as_numpy("scores")
                assert (str(scores.dtype), scores.shape) == ("float32", (batch, 4))
                np.testing.assert_allclose(scores, workshop.network.expected(rows), atol=0.08)
