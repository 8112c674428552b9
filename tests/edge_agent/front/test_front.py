from __future__ import annotations

import http.client
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.runner.control import Drain, Drained, Routes, StopAccepting
from tests.edge_agent.front.conftest import Load, request

if TYPE_CHECKING:
    from tests.edge_agent.front.conftest import Device


def test_front_forwards_to_each_model_and_joins_what_names_none(device: Device) -> None:
    device.runner("red")
    device.runner("blue", version="7", file=device.workshop.int8_file())
    front = device.front()
    client = device.client()
    rows = device.workshop.network.samples(4)
    for model, version in (("red", "1"), ("blue", "7")):
        status, answer = client.infer(request(device.workshop, 4), model)
        assert (status, answer["model_name"], answer["model_version"]) == (200, model, version)
        scores = np.array(answer["outputs"][0]["data"]).reshape(4, 4)
        np.testing.assert_allclose(scores, device.workshop.network.expected(rows), atol=0.08)
        assert client.get(f"/v2/models/{model}/versions/{version}")[1]["versions"] == [version]
        assert client.get(f"/v2/models/{model}/ready")[0] == 200
    assert client.get("/v2")[1]["name"] == "shoal"
    assert client.get("/v2/health/live") == (200, {"live": True})
    assert client.get("/v2/health/ready") == (200, {"ready": True})
    status, index = client.ask("POST", "/v2/repository/index", b"{}")
    assert status == 200
    assert {(one["name"], one["state"]) for one in index} == {("red", "READY"), ("blue", "READY")}
    stats = client.get("/v2/models/stats")[1]["model_stats"]
    assert {one["name"]: one["inference_count"] for one in stats} == {"red": 4, "blue": 4}
    maps = Path(f"/proc/{front.process.pid}/maps").read_text()
    assert "numpy" not in maps
    assert "litert" not in maps


def test_front_passes_binary_tensors_both_ways(device: Device) -> None:
    device.runner("red")
    device.front()
    client = device.client()
    rows = device.workshop.network.samples(2)
    head = (
        b'{"inputs":[{"name":"features","shape":[2,8],"datatype":"FP32","parameters":{"binary_data_size":64}}],'
        b'"parameters":{"binary_data_output":true}}'
    )
    status, content = client.ask(
        "POST",
        "/v2/models/red/infer",
        head + rows.tobytes(),
        {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    assert status == 200
    binary = content[int(client.headers["inference-header-content-length"]) :]
    scores = np.frombuffer(binary, dtype=np.float32).reshape(2, 4)
    np.testing.assert_allclose(scores, device.workshop.network.expected(rows), atol=1e-5)


BAD_REQUESTS: list[tuple[str, str, bytes | None, int]] = [
    ("GET", "/v2/models/green", None, 404),
    ("POST", "/v2/models/green/infer", b"{}", 404),
    ("GET", "/v2/models/red/versions/9", None, 404),
    ("GET", "/v3", None, 404),
    ("GET", "/v2/models/%2e%2e/infer", None, 404),
    ("POST", "/v2", b"", 405),
    ("GET", "/v2/models/red/infer", None, 405),
    ("POST", "/v2/models/red/infer", b"[" * 100_000, 400),
    ("POST", "/v2/models/red/infer", b"", 400),
]


def test_front_and_bad_requests_answer_with_the_right_code(device: Device) -> None:
    device.runner("red")
    device.front()
    client = device.client()
    for method, path, body, status in BAD_REQUESTS:
        got, answer = client.ask(method, path, body)
        assert (got, set(answer)) == (status, {"error"}), (method, path)
    assert client.infer(request(device.workshop), "red")[0] == 200
    with socket.create_connection(("127.0.0.1", device.port), timeout=10) as raw:
        raw.sendall(b"POST /v2/models/red/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", device.port), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert device.client().infer(request(device.workshop), "red")[0] == 200


def test_crash_of_one_model_never_touches_the_other(device: Device) -> None:
    red = device.runner("red")
    device.runner("blue")
    device.front()
    blue_load = Load(device, "blue")
    client = device.client()
    assert client.infer(request(device.workshop), "red")[0] == 200
    red.process.kill()
    red.process.wait(10)
    _, index = client.get("/v2/repository/index")
    assert {one["name"]: one["state"] for one in index} == {"red": "UNAVAILABLE", "blue": "READY"}
    assert client.get("/v2/health/ready") == (503, {"ready": False})
    assert client.get("/v2/models/red/ready")[0] == 503
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(client.infer(request(device.workshop), "red")[0]))
    waiting.start()
    device.runner("red")
    waiting.join(10)
    assert answers == [200]
    assert device.client().get("/v2/health/ready")[0] == 200
    blue_load.wait_for_more("1")
    blue_load.stop()
    assert not blue_load.failures


def test_runner_that_dies_while_it_answers_is_asked_again_once(device: Device) -> None:
    red = device.runner("red")
    device.front()
    client = device.client()
    assert client.infer(request(device.workshop), "red")[0] == 200
    os.kill(red.process.pid, signal.SIGSTOP)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(client.infer(request(device.workshop), "red")[0]))
    waiting.start()
    time.sleep(0.2)  # the request is with the stopped runner
    red.process.kill()
    red.process.wait(10)
    device.runner("red")
    waiting.join(10)
    assert answers == [200]


def test_update_of_one_model_under_load_loses_nothing_and_the_old_runner_leaves_soon(device: Device) -> None:
    old = device.runner("red", version="1")
    device.runner("blue", version="1")
    front = device.front()
    red_load, blue_load = Load(device, "red", clients=3), Load(device, "blue", clients=1)
    files = [device.workshop.int8_file(), device.workshop.uint8_file(), device.workshop.float_file()]
    for version, file in zip("234", files, strict=True):
        red_load.wait_for_more(str(int(version) - 1))
        new = device.runner("red", version=version, file=file)
        began_s = time.monotonic()
        old.send(Drain(deadline_s=20.0))
        front.send(Routes(sockets=device.routes()))
        old.wait_for(Drained)
        assert time.monotonic() - began_s < 5
        old = new
    red_load.wait_for_more("4")
    for load in (red_load, blue_load):
        load.stop()
        assert not load.failures
    assert set(red_load.versions) == {"1", "2", "3", "4"}


def test_second_model_hands_the_port_from_runner_to_front_and_loses_nothing(device: Device) -> None:
    red = device.runner("red", also_tcp=True)
    load = Load(device, "red", clients=3)
    load.wait_for_more("1")
    device.runner("blue")
    old_connection = device.client()
    assert old_connection.get("/v2/models/red")[0] == 200  # made before the front: it belongs to red's runner
    front = device.front()
    red.send(StopAccepting(descriptors=(device.port_socket.fileno(),)))
    load.wait_for_more("1", count=200)
    status, _ = old_connection.infer(request(device.workshop), "blue")
    if status == 421:  # connect again, it says
        assert old_connection.headers["connection"] == "close"
        status, _ = old_connection.infer(request(device.workshop), "blue")
    assert status == 200
    red.serve()  # and back: red is alone again
    front.drain(2.0)
    load.wait_for_more("1", count=200)
    load.stop()
    assert not load.failures


def test_route_that_is_taken_away_is_not_found(device: Device) -> None:
    device.runner("red")
    device.runner("blue")
    front = device.front()
    client = device.client()
    assert client.infer(request(device.workshop), "blue")[0] == 200
    front.send(Routes(sockets={"red": device.path("red")}))
    ends_s = time.monotonic() + 5
    while client.infer(request(device.workshop), "blue")[0] != 404:
        assert time.monotonic() < ends_s
    assert client.infer(request(device.workshop), "red")[0] == 200


def test_front_that_is_killed_and_started_again_loses_no_new_connection(device: Device) -> None:
    device.runner("red")
    front = device.front()
    front.process.kill()
    front.process.wait(10)
    client = device.client()
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(client.infer(request(device.workshop), "red")[0]))
    waiting.start()
    device.front()
    waiting.join(10)
    assert answers == [200]


def test_drain_answers_an_open_connection_once_more_with_close(device: Device) -> None:
    device.runner("red")
    front = device.front()
    client = device.client()
    assert client.get("/v2")[0] == 200
    drained = threading.Thread(target=front.drain)
    drained.start()
    time.sleep(0.2)
    assert client.infer(request(device.workshop), "red")[0] == 200
    assert client.headers["connection"] == "close"
    drained.join(10)
    assert front.process.poll() == 0


def test_front_whose_supervisor_has_gone_leaves(device: Device) -> None:
    device.runner("red")
    front = device.front()
    idle = http.client.HTTPConnection("127.0.0.1", device.port, timeout=10)
    idle.connect()
    front.control.shutdown(socket.SHUT_RDWR)
    front.process.wait(10)
    idle.close()
