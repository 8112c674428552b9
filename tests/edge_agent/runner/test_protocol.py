"""The Open Inference Protocol as a client sees it: one real runner for the whole file, each test asks it something."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.runner.control import Beat

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.edge_agent.conftest import Workshop
    from tests.edge_agent.runner.conftest import Client, Shared

INFER = "/v2/models/tiny/infer"


@pytest.fixture
def workshop(shared: Shared) -> Workshop:
    return shared.workshop


@pytest.fixture
def client(shared: Shared, connect: Callable[..., Client]) -> Client:
    return connect(shared.port)


def tensor(workshop: Workshop, rows: int = 1, **changes: Any) -> dict[str, Any]:  # noqa: ANN401  any JSON
    data = workshop.network.samples(rows)
    document = {"name": "features", "shape": [rows, 8], "datatype": "FP32", "data": data.ravel().tolist(), **changes}
    return {key: value for key, value in document.items() if value is not None}


def binary(head: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return b"".join([text, *tensors]), {"Inference-Header-Content-Length": str(len(text))}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/versions/1/ready", {"name": "tiny", "ready": True}),
        ("/v2/repository/index", [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]),
    ],
)
def test_get_tells_what_is_there(client: Client, path: str, expected: object) -> None:
    assert client.get(path) == (200, expected)


def test_get_server_and_model_metadata(client: Client) -> None:
    status, server = client.get("/v2")
    assert (status, server["name"]) == (200, "shoal")
    assert "binary_tensor_data" in server["extensions"]
    assert client.get("/v2/")[1] == server
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        status, model = client.get(path)
        assert (status, model["name"], model["versions"], model["platform"]) == (200, "tiny", ["1"], "litert_tflite")
        assert model["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 8]}]
        assert model["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 4]}]


def test_post_repository_index_answers_as_get_does(client: Client) -> None:
    assert client.ask("POST", "/v2/repository/index", b"{}") == client.get("/v2/repository/index")


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_infer_json_gives_the_network_s_numbers(workshop: Workshop, client: Client, nested: bool) -> None:  # noqa: FBT001
    rows = workshop.network.samples(2)
    data = rows.tolist() if nested else rows.ravel().tolist()
    status, answer = client.infer({"inputs": [tensor(workshop, 2, data=data)], "outputs": [{"name": "scores"}]})
    assert status == 200
    assert "id" not in answer
    (scores,) = answer["outputs"]
    assert (scores["name"], scores["datatype"], scores["shape"]) == ("scores", "FP32", [2, 4])
    np.testing.assert_allclose(np.reshape(scores["data"], (2, 4)), workshop.network.expected(rows), atol=1e-5)


def test_infer_by_version_path_answers_and_an_unknown_version_is_not_found(workshop: Workshop, client: Client) -> None:
    body = json.dumps({"inputs": [tensor(workshop)]}).encode()
    assert client.ask("POST", "/v2/models/tiny/versions/1/infer", body)[0] == 200
    status, answer = client.ask("POST", "/v2/models/tiny/versions/9/infer", body)
    assert status == 404
    assert "version 1 here, not '9'" in answer["error"]


def test_infer_whole_numbers_for_floats_are_taken(workshop: Workshop, client: Client) -> None:
    assert client.infer({"inputs": [tensor(workshop, data=[1, 0, -1, 2, 0.5, 3, 4, 5])]})[0] == 200


def test_infer_binary_in_and_out_carries_the_same_tensors(workshop: Workshop, client: Client) -> None:
    rows = workshop.network.samples(4)
    head = {
        "id": "b",
        "parameters": {"binary_data_output": True},
        "inputs": [tensor(workshop, 4, data=None, parameters={"binary_data_size": rows.nbytes})],
    }
    body, headers = binary(head, rows.tobytes())
    status, content = client.ask("POST", INFER, body, headers)
    assert status == 200
    length = int(client.headers["inference-header-content-length"])
    answer = json.loads(content[:length])
    assert answer["id"] == "b"
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 64}
    scores = np.frombuffer(content[length:], dtype="<f4").reshape(4, 4)
    np.testing.assert_allclose(scores, workshop.network.expected(rows), atol=1e-5)


def test_infer_binary_in_and_json_out(workshop: Workshop, client: Client) -> None:
    rows = workshop.network.samples(1)
    head = {"inputs": [tensor(workshop, data=None, parameters={"binary_data_size": 32})]}
    body, headers = binary(head, rows.tobytes())
    status, answer = client.ask("POST", INFER, body, headers)
    assert status == 200
    np.testing.assert_allclose(answer["outputs"][0]["data"], workshop.network.expected(rows)[0], atol=1e-5)


BAD_TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "other"}, "there is no input 'other'"),
    "name-missing": ({"name": None}, "there is no input None"),
    "datatype": ({"datatype": "FP64"}, "has the datatype FP32, not 'FP64'"),
    "datatype-missing": ({"datatype": None}, "has the datatype FP32"),
    "shape-width": ({"shape": [1, 9]}, r"has the shape [-1, 8], got [1, 9]"),
    "shape-rank": ({"shape": [8]}, "has the shape"),
    "shape-negative": ({"shape": [-1, 8]}, "must be a list of numbers above 0, got [-1, 8]"),
    "shape-zero": ({"shape": [0, 8], "data": []}, "must be a list of numbers above 0, got [0, 8]"),
    "shape-text": ({"shape": "1x8"}, "must be a list of whole numbers"),
    "shape-float": ({"shape": [1.0, 8]}, "must be a list of whole numbers"),
    "shape-huge": ({"shape": [10**15, 8]}, "takes 8000000000000000 numbers, got 8"),
    "data-short": ({"data": [1.0] * 7}, "takes 8 numbers, got 7"),
    "data-missing": ({"data": None}, "has no list of data"),
    "data-text": ({"data": ["1"] * 8}, "must be numbers"),
    "data-null": ({"data": [1.0, *[None] * 7]}, "must be numbers"),
    "data-bool": ({"data": [True] * 8}, "must be numbers"),
    "data-object": ({"data": {}}, "has no list of data"),
    "data-ragged": ({"data": [[1.0] * 7, [1.0]]}, "no rectangle"),
    "data-nested-wrong": ({"data": [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0], [8.0]]}, "nested data"),
    "data-overflow": ({"data": [1e300] * 8}, "NaN or infinity"),
    "parameters": ({"parameters": 3}, "must be an object"),
    "shared-memory": ({"parameters": {"shared_memory_region": "x"}}, "not offered"),
    "binary-without-header": ({"parameters": {"binary_data_size": 32}, "data": None}, "Length is missing"),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_infer_with_a_bad_tensor_is_one_sentence_and_the_connection_goes_on(
    workshop: Workshop, client: Client, changes: dict[str, Any], sentence: str
) -> None:
    status, answer = client.infer({"inputs": [tensor(workshop, **changes)]})
    assert status == 400
    assert sentence in answer["error"]
    assert client.infer({"inputs": [tensor(workshop)]})[0] == 200


BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "garbage": (b"\x00\xff{", "not JSON"),
    "nan-literal": (b'{"inputs":[{"name":"features","shape":[1,8],"datatype":"FP32","data":[NaN]}]}', "not JSON"),
    "list": (b"[]", "must be a JSON object"),
    "no-inputs": (b"{}", "inputs must be a list"),
    "inputs-empty": (b'{"inputs":[]}', "inputs must be a list"),
    "inputs-object": (b'{"inputs":{}}', "inputs must be a list"),
    "input-number": (b'{"inputs":[3]}', "each input must be an object"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "not JSON"),
    "deep-data": (
        b'{"inputs":[{"name":"features","shape":[1,8],"datatype":"FP32","data":' + b"[" * 500 + b"]" * 500 + b"}]}",
        "no rectangle",
    ),
    "long-texts": (
        b'{"inputs":[{"name":"features","shape":[1,8],"datatype":"FP32","data":["'
        + b"x" * 500_000
        + b'"'
        + b',"y"' * 50_000
        + b"]}]}",
        "must be numbers",
    ),
}


@pytest.mark.parametrize(("body", "sentence"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_infer_with_a_bad_body_is_refused(client: Client, body: bytes, sentence: str) -> None:
    status, answer = client.ask("POST", INFER, body)
    assert status == 400
    assert sentence in answer["error"]


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"outputs": [{"name": "nothing"}]}, "outputs names 'nothing'"),
        ({"outputs": [{"name": "scores"}, {"name": "scores"}]}, "outputs must be a list of some"),
        ({"outputs": 5}, "outputs must be a list of some"),
        ({"outputs": [7]}, "outputs names None"),
        ({"outputs": [{"name": "scores", "parameters": {"classification": 2}}]}, "classification"),
        ({"id": 5}, "id must be a text"),
        ({"id": "x" * 300}, "id must be a text"),
        ({"parameters": []}, "must be an object"),
    ],
)
def test_infer_with_bad_wishes_is_refused(
    workshop: Workshop, client: Client, extra: dict[str, Any], sentence: str
) -> None:
    status, answer = client.infer({"inputs": [tensor(workshop)], **extra})
    assert (status, sentence in answer["error"]) == (400, True), answer


def test_infer_twice_the_same_input_is_refused(workshop: Workshop, client: Client) -> None:
    status, answer = client.infer({"inputs": [tensor(workshop), tensor(workshop)]})
    assert (status, answer["error"]) == (400, "input features is given twice")


def test_infer_of_too_many_samples_is_refused(workshop: Workshop, client: Client) -> None:
    assert client.infer({"inputs": [tensor(workshop, 1024)]})[0] == 200
    status, answer = client.infer({"inputs": [tensor(workshop, 1025)]})
    assert status == 400
    assert "at most 1024" in answer["error"]


@pytest.mark.parametrize(
    ("size", "length", "tail", "sentence"),
    [
        (31, None, 32, "takes 32 bytes, binary_data_size is 31"),
        (32, None, 31, "only 31 follow the JSON"),
        (32, None, 40, "40 binary bytes follow the JSON, its inputs account for 32"),
        (-1, None, 32, "must be a whole number"),
        (32, "99999", 32, "but the body has"),
        (32, "0", 32, "without its JSON part is not offered"),
        (32, "-5", 32, "must be a whole number"),
        (32, "9" * 40, 32, "must be a whole number"),
    ],
)
def test_infer_binary_with_wrong_lengths_is_refused(
    workshop: Workshop, client: Client, size: int, length: str | None, tail: int, sentence: str
) -> None:
    body, headers = binary(
        {"inputs": [tensor(workshop, data=None, parameters={"binary_data_size": size})]}, b"\0" * tail
    )
    if length is not None:
        headers["Inference-Header-Content-Length"] = length
    status, answer = client.ask("POST", INFER, body, headers)
    assert status == 400
    assert sentence in answer["error"]


def test_infer_binary_nan_is_refused_with_its_sample(workshop: Workshop, client: Client) -> None:
    rows = workshop.network.samples(3)
    rows[1, 2] = np.nan
    head = {"inputs": [tensor(workshop, 3, data=None, parameters={"binary_data_size": rows.nbytes})]}
    body, headers = binary(head, rows.tobytes())
    status, answer = client.ask("POST", INFER, body, headers)
    assert status == 400
    assert "first in sample 1" in answer["error"]


def read_all(raw: socket.socket) -> bytes:
    """Everything until the other side closes."""
    content = b""
    while chunk := raw.recv(65536):
        content += chunk
    return content


def test_infer_whose_content_length_is_a_gigabyte_is_refused_before_it_is_sent(shared: Shared, client: Client) -> None:
    before = shared.runner.wait_for(Beat).rss_bytes
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as raw:
        raw.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n" % INFER.encode())
        answer = read_all(raw)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"at most 1048576 bytes" in answer
        assert b"connection: close" in answer
    assert client.get("/v2/health/live")[0] == 200
    beats = len(shared.runner.beats())
    assert shared.runner.wait_for(Beat, lambda _: len(shared.runner.beats()) > beats).rss_bytes < before + (64 << 20)


def test_infer_whose_client_sends_all_of_a_large_body_still_reads_the_refusal(client: Client) -> None:
    status, answer = client.ask("POST", INFER, b" " * (3 << 20))
    assert status == 413
    assert "send fewer samples" in answer["error"]


def test_infer_chunked_beyond_the_limit_is_refused(client: Client) -> None:
    chunk = b"%x\r\n%s\r\n" % (65536, b" " * 65536)
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as raw:
        raw.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER.encode())
        for _ in range(20):
            raw.sendall(chunk)
        assert read_all(raw).startswith(b"HTTP/1.1 413 ")


def test_infer_chunked_within_the_limit_is_answered(workshop: Workshop, client: Client) -> None:
    body = json.dumps({"inputs": [tensor(workshop)]}).encode()
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as raw:
        raw.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER.encode())
        for byte in (body[:50], body[50:]):
            raw.sendall(b"%x\r\n%s\r\n" % (len(byte), byte))
        raw.sendall(b"0\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_infer_compressed_is_refused_by_name(client: Client) -> None:
    status, answer = client.ask("POST", INFER, b"\x1f\x8b123", {"Content-Encoding": "gzip"})
    assert status == 415
    assert "'gzip' is not supported" in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", INFER, "POST"),
        ("DELETE", "/v2/models/tiny", "GET"),
        ("POST", "/v2/health/live", "GET"),
        ("PUT", "/v2/repository/index", "GET, POST"),
        ("POST", "/v2/models/tiny/stats", "GET"),
    ],
)
def test_wrong_method_names_the_right_one(client: Client, method: str, path: str, allowed: str) -> None:
    status, answer = client.ask(method, path)
    assert (status, answer["error"]) == (405, f"use {allowed} here")
    assert client.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/", "/v1/models", "/v2/nothing", "/v2/models", "/v2/models/other", "/v2/models/..%2f..%2fetc/infer"]
)
def test_unknown_path_or_model_is_not_found(client: Client, path: str) -> None:
    status, answer = client.ask("GET", path)
    assert status == 404
    assert answer["error"]


@pytest.mark.parametrize(
    "request_bytes",
    [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"POST /v2 HTTP/1.1\r\nContent-Length: -4\r\n\r\n"],
    ids=["tls", "no-path", "negative-length"],
)
def test_what_is_not_http_is_answered_and_harms_nobody(client: Client, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as raw:
        raw.sendall(request_bytes)
        assert raw.recv(65536).startswith(b"HTTP/1.1 400")
    assert client.get("/v2/health/live")[0] == 200


def test_client_that_leaves_half_way_harms_nobody(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=5) as raw:
        raw.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{" % INFER.encode())
    assert client.get("/v2/health/live")[0] == 200


@pytest.mark.parametrize("path", ["/v2/models/stats", "/v2/models/tiny/stats", "/v2/models/tiny/versions/1/stats"])
def test_statistics_have_triton_s_form_and_count(workshop: Workshop, client: Client, path: str) -> None:
    (before,) = client.get(path)[1]["model_stats"]
    client.infer({"inputs": [tensor(workshop, 3)]})
    client.infer({"inputs": [tensor(workshop, 1)]})
    client.infer({})
    (stats,) = client.get(path)[1]["model_stats"]
    assert (stats["name"], stats["version"]) == ("tiny", "1")
    assert stats["inference_count"] - before["inference_count"] == 4
    assert stats["execution_count"] - before["execution_count"] == 2
    for outcome, count in (("success", 2), ("fail", 1), ("queue", 2), ("compute_infer", 2), ("cache_hit", 0)):
        assert stats["inference_stats"][outcome]["count"] - before["inference_stats"][outcome]["count"] == count
    assert stats["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert {1, 3} <= {batch["batch_size"] for batch in stats["batch_stats"]}


@pytest.mark.parametrize("form", ["json", "binary"])
def test_infer_of_any_damaged_request_is_never_a_server_error(workshop: Workshop, client: Client, form: str) -> None:
    rng = np.random.default_rng(5)
    rows = workshop.network.samples(2)
    headers: dict[str, str] = {}
    if form == "json":
        body = json.dumps({"id": "x", "inputs": [tensor(workshop, 2)], "outputs": []}).encode()
    else:
        parameters = {"binary_data_size": rows.nbytes}
        body, headers = binary({"inputs": [tensor(workshop, 2, data=None, parameters=parameters)]}, rows.tobytes())
    statuses = set()
    for _ in range(600):
        damaged = bytearray(body)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, len(damaged)))
            kind = rng.integers(0, 4)
            if kind == 0:
                damaged[at] = int(rng.integers(0, 256))
            elif kind == 1:
                del damaged[at : at + int(rng.integers(1, 20))]
            elif kind == 2:
                damaged[at:at] = damaged[at : at + int(rng.integers(1, 20))]
            else:
                damaged[at] = int(rng.choice(np.frombuffer(b'[]{}",:-.e019ntf', dtype=np.uint8)))
            damaged = damaged or bytearray(b" ")
        statuses.add(client.ask("POST", INFER, bytes(damaged), headers)[0])
    assert 400 in statuses
    assert statuses <= {200, 400}
