"""What users, networks and strangers get wrong, as they see the answer: one sentence, and nothing half done.

What one part alone can show is tested beside that part; here it has passed through all of them.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import threading
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.protocol.messages import DeploymentStatus, Desired, Status, TelemetryReport, encode
from edge_agent.protocol.states import DeploymentState
from edge_agent.protocol.topics import DeviceTopic, device_topic
from tests.processes import RunningRegistry, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.conftest import TinyModel
    from tests.e2e.fleet import Fleet


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[RunningRegistry]:
    """One registry for all bad pushes: none of them may leave a trace."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(prepared, folder / "registry", ignore=shutil.ignore_patterns("*.sock"))
    running = RunningRegistry(folder / "registry")
    try:
        running.start()
        yield running
    finally:
        running.stop()


def push(registry: RunningRegistry, source: Path, data: Path, *, name: str = "bad", version: str = "1") -> Any:  # noqa: ANN401  a finished process
    flags = ("--name", name, "--version", version, "--data", data, "--task", "regression", "--metric", "r2")
    return registry.cli("model", "push", source, *flags)


def assert_one_sentence(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode in {1, 2}, ended
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("edge-registry: ")
    assert "Traceback" not in ended.stderr + ended.stdout
    for word in words:
        assert word in lines[0], lines[0]


def truncated(tiny: TinyModel, folder: Path) -> tuple[Path, Path]:
    content = tiny.archive("1").read_bytes()
    (folder / "x.pt2").write_bytes(content[: len(content) // 2])
    return folder / "x.pt2", tiny.data


def a_pickle(tiny: TinyModel, folder: Path) -> tuple[Path, Path]:
    (folder / "x.pt2").write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    return folder / "x.pt2", tiny.data


def another_zip(tiny: TinyModel, folder: Path) -> tuple[Path, Path]:
    with zipfile.ZipFile(folder / "x.pt2", "w") as archive:
        archive.writestr("holiday/photo.txt", "sea")
    return folder / "x.pt2", tiny.data


def pickled_payload(tiny: TinyModel, folder: Path) -> tuple[Path, Path]:
    with zipfile.ZipFile(tiny.archive("1")) as good, zipfile.ZipFile(folder / "x.pt2", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
                assert b'"use_pickle": true' in content
            bad.writestr(name, content)
    return folder / "x.pt2", tiny.data


def data_with(**arrays: Callable[[Any], Any]) -> Callable[[TinyModel, Path], tuple[Path, Path]]:
    def spoil(tiny: TinyModel, folder: Path) -> tuple[Path, Path]:
        with np.load(tiny.data) as good:
            changed = {name: good[name] for name in good.files}
        for name, change in arrays.items():
            changed[name] = change(changed[name])
        np.savez(folder / "x.npz", **changed)
        return tiny.archive("1"), folder / "x.npz"

    return spoil


def renamed(tiny: TinyModel, folder: Path) -> tuple[Path, Path]:
    with np.load(tiny.data) as good:
        np.savez(folder / "x.npz", other=good["features"], target=good["target"])
    return tiny.archive("1"), folder / "x.npz"


def with_a_nan(array: Any) -> Any:  # noqa: ANN401  an array
    array[7, 3] = np.nan
    return array


SLOW = pytest.mark.slow  # the quickest of each kind are not


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(truncated, ["truncated or damaged"], id="truncated"),
        pytest.param(a_pickle, ["pickle"], id="pickle"),
        pytest.param(another_zip, ["torch.export.save"], id="another-zip"),
        pytest.param(pickled_payload, ["pickle"], id="pickled-payload"),
        pytest.param(renamed, ["features"], id="wrong-name", marks=SLOW),
        pytest.param(data_with(features=lambda a: a[:, :5]), ["features"], id="wrong-shape"),
        pytest.param(data_with(target=lambda a: a[:-3]), ["597", "600"], id="row-counts", marks=SLOW),
        pytest.param(data_with(features=with_a_nan), ["features"], id="nan"),
    ],
)
def test_push_of_what_is_no_model_or_no_data_is_one_sentence_and_registers_nothing(
    shared: RunningRegistry,
    tiny_model: TinyModel,
    tmp_path: Path,
    spoil: Callable[[TinyModel, Path], tuple[Path, Path]],
    words: list[str],
) -> None:
    source, data = spoil(tiny_model, tmp_path)
    assert_one_sentence(push(shared, source, data), *words)
    listed = json.loads(shared.cli("model", "list", "--json").stdout)
    assert {model["model"] for model in listed} == {"tiny"}
    assert_one_sentence(shared.cli("model", "show", "bad@1"))


def test_names_that_are_none_and_versions_that_are_taken_are_one_sentence(
    shared: RunningRegistry, tiny_model: TinyModel
) -> None:
    for name in ("../tiny", "tiny model", "tiny+1", "tiny#1", "t" * 300, "tiny🦀"):
        assert_one_sentence(push(shared, tiny_model.archive("1"), tiny_model.data, name=name), "name")
    again = push(shared, tiny_model.archive("2"), tiny_model.data, name="tiny", version="1")
    assert_one_sentence(again, "Version 1 of model tiny")
    assert len(json.loads(shared.cli("model", "list", "--json").stdout)) == 1


@pytest.mark.parametrize(
    ("line", "words"), [("ram_bytes: -1", ["ram_bytes"]), ("npu: {kind: warp-core}", ["npu", "warp-core"])]
)
def test_profile_that_cannot_be_is_one_sentence(
    shared: RunningRegistry, tmp_path: Path, line: str, words: list[str]
) -> None:
    key = line.partition(":")[0]
    good = shared.cli("profile", "show", "bench").stdout.replace("name: bench", "name: strange")
    kept = [old for old in good.splitlines() if not old.startswith(f"{key}:")]
    (tmp_path / "strange.yaml").write_text("\n".join([*kept, line]) + "\n")
    assert_one_sentence(shared.cli("profile", "add", tmp_path / "strange.yaml"), *words)
    assert "strange" not in shared.cli("profile", "list").stdout


@pytest.mark.parametrize(("part", "row"), [pytest.param("seaweedfs", "objects", marks=SLOW), ("mosquitto", "broker")])
def test_part_that_hangs_is_named_by_status_and_a_push_registers_nothing_meanwhile(
    fleet: Fleet, tiny_model: TinyModel, part: str, row: str
) -> None:
    registry = fleet.registry
    fleet.wait_online(fleet.join("till-1"))
    pid = registry.state.processes[part].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        told = registry.cli("status", "--json")
        assert told.returncode == 1, told
        assert json.loads(told.stdout)[row] != "ok"
        if part == "seaweedfs":
            assert_one_sentence(push(registry, tiny_model.archive("1"), tiny_model.data), "S3")
        else:  # the database owns the wanted state: a rollout is taken, and goes on when the broker is back
            rollout_id = fleet.roll_out("1")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: registry.cli("status").returncode == 0, f"{part} answers again")
    if part == "seaweedfs":
        assert len(json.loads(registry.cli("model", "list", "--json").stdout)) == 1
    else:
        fleet.wait_for(rollout_id)


@pytest.mark.slow  # a process is missed only after 40 s
def test_processes_that_hang_are_named_by_status(fleet: Fleet) -> None:
    registry, ours = fleet.registry, {"controller", "delivery", "ingest", "worker"}

    def missed() -> set[str]:
        states = json.loads(registry.cli("status", "--json").stdout)["processes"]
        return {name for name, state in states.items() if state != "ok"}

    wait_until(lambda: registry.cli("status").returncode == 0, "every process has said that it works")
    for name in ours:
        os.kill(registry.state.processes[name].pid, signal.SIGSTOP)
    try:
        wait_until(lambda: missed() == ours, "they are missed", timeout_s=90)
        told = registry.cli("status")
    finally:
        for name in ours:
            os.kill(registry.state.processes[name].pid, signal.SIGCONT)
    assert told.returncode == 1
    assert all(f"no {name} has worked for" in told.stdout for name in ours)
    wait_until(lambda: registry.cli("status").returncode == 0, "they work again", timeout_s=30)


def publish(mqtt_url: str, messages: list[tuple[str, bytes]]) -> None:
    """Publish as a stranger; what the broker does not take is not our concern."""
    host, port = mqtt_url.removeprefix("mqtt://").split(":")
    for topic, payload in messages:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        client.connect(host, int(port))
        client.loop_start()
        sent = client.publish(topic, payload, qos=1)
        wait_until(partial(_is_over, client, sent), "sent or refused", timeout_s=10)
        client.disconnect()
        client.loop_stop()


def subscribe_for(mqtt_url: str, client_id: str, topic: str) -> None:
    """Leave a session with this subscription at the broker, for whoever connects next by this id."""
    host, port = mqtt_url.removeprefix("mqtt://").split(":")
    kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    kept.SessionExpiryInterval = 600
    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTProtocolVersion.MQTTv5)
    answered = threading.Event()
    client.on_subscribe = lambda *_: answered.set()
    client.connect(host, int(port), clean_start=False, properties=kept)
    client.loop_start()
    client.subscribe(topic, qos=1)
    assert answered.wait(10)
    client.disconnect()
    client.loop_stop()


def _is_over(client: Client, sent: MQTTMessageInfo) -> bool:
    return sent.is_published() or not client.is_connected()


def test_strange_messages_and_requests_stop_neither_device_nor_registry(fleet: Fleet, tiny_model: TinyModel) -> None:
    agent = fleet.join("till-1")
    small = fleet.join("small-1", flags=("--storage-budget", "1K"))
    fleet.wait_online(agent, small)

    # a model larger than the device's storage is refused there, and the rollout tells
    rollout_id = fleet.roll_out("1", max_failures=1)
    rollout = fleet.wait_for(rollout_id)
    refused = next(one for one in rollout.deployments if one.device_id == "small-1")
    assert (refused.state, refused.reason) == ("rejected", "storage_budget")
    assert "storage budget is 1024" in fleet.registry.cli("rollout", "status", rollout_id).stdout

    wanted = agent.status()["desired"]
    older = {"v": 1, "epoch": wanted["epoch"], "generation": 0, "deployments": []}
    newer_version = {**older, "v": 99, "generation": 10**6}
    publish(
        fleet.registry.state.mqtt_url,
        [
            (device_topic("till-1", DeviceTopic.DESIRED), json.dumps(older).encode()),
            (device_topic("till-1", DeviceTopic.DESIRED), json.dumps(newer_version).encode()),
            *((device_topic("till-1", kind), b"\x00\xff garbage") for kind in DeviceTopic if "/" not in kind),
            *(
                (device_topic("till-1", kind), b"x" * 5_000_000)
                for kind in (DeviceTopic.DESIRED, DeviceTopic.TELEMETRY)
            ),
        ],
    )
    bodies: list[dict[str, Any]] = [{}, {"inputs": []}, {"inputs": [{"name": "features"}]}]
    for body in (*bodies, _request([[1.0] * 7]), _request([["a"] * 8])):
        answer = httpx.post(f"{agent.url}/v2/models/tiny/infer", json=body, timeout=10)
        assert 400 <= answer.status_code < 500
        assert isinstance(answer.json()["error"], str)
    with socket.create_connection((agent.host, agent.port), timeout=10) as raw:
        raw.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n")
        assert b" 413 " in raw.recv(200)

    # both still work: the answer is right, the count is exact, and the next rollout arrives
    good = agent.infer("tiny", tiny_model.rows)
    np.testing.assert_allclose(good["outputs"][0]["data"], tiny_model.expected("1").ravel(), atol=0.15)
    assert agent.status()["desired"] == wanted
    fleet.wait_counted({"till-1": len(tiny_model.rows)})
    fleet.wait_for(fleet.roll_out("2", max_failures=1))
    assert agent.serves("tiny", "2")


def test_messages_of_a_device_that_never_joined_count_nothing(fleet: Fleet) -> None:
    fleet.wait_online(fleet.join("till-1"))
    report = TelemetryReport(
        spool_id="a" * 32,
        sequence=1,
        model="tiny",
        version="1",
        variant_id="v-1",
        deployment_id="dep-1",
        window_start=1.0,
        window_s=1.0,
        requests=7,
        inferences=7,
    )
    deployment = DeploymentStatus(
        deployment_id="dep-1", model="tiny", version="1", variant_id="v-1", state=DeploymentState.ACTIVE, serving=True
    )
    status = Status(session_id="b" * 32, sequence=1, observed_epoch=1, observed_generation=1, deployments=(deployment,))

    # the very same report counts where its device is known: last, so that the others have been read by then
    publish(
        fleet.registry.state.mqtt_url,
        [
            (device_topic("nobody-1", DeviceTopic.TELEMETRY), encode(report)),
            (device_topic("nobody-1", DeviceTopic.STATUS), encode(status)),
            (device_topic("till-1", DeviceTopic.TELEMETRY), encode(report)),
        ],
    )

    fleet.wait_counted({"till-1": 7, "nobody-1": 0})
    with fleet.registry.client() as client:
        assert [device.device_id for device in client.list_devices()] == ["till-1"]
    told = (fleet.registry.data_dir / "logs" / "ingest.log").read_text()
    assert told.count("from device nobody-1: unknown device: it never joined, or is retired") == 1


def test_desired_state_of_another_device_is_not_obeyed(fleet: Fleet) -> None:
    # a session of the broker's is the client's by its id: so till-1 finds itself subscribed to what is not its own
    subscribe_for(fleet.registry.state.mqtt_url, "till-1", device_topic("till-2", DeviceTopic.DESIRED))
    agent, other = fleet.join("till-1"), fleet.join("till-2")
    fleet.wait_online(agent, other)
    fleet.wait_for(fleet.roll_out("1"))
    wanted = agent.status()["desired"]

    nothing = Desired(epoch=wanted["epoch"], generation=10**6)
    publish(fleet.registry.state.mqtt_url, [(device_topic("till-2", DeviceTopic.DESIRED), encode(nothing))])

    # it is valid: whom it is for obeys it
    wait_until(lambda: other.status()["desired"]["generation"] == 10**6, "till-2 has it")
    wait_until(lambda: not other.serves("tiny", "1"), "till-2 obeys")
    wait_until(lambda: "till-2/desired, which is not ours" in agent.log_path.read_text(), "till-1 has seen it")
    assert agent.status()["desired"] == wanted
    assert agent.serves("tiny", "1")


def _request(data: list[list[Any]]) -> dict[str, Any]:
    shape = [len(data), len(data[0])]
    return {"inputs": [{"name": "features", "shape": shape, "datatype": "FP32", "data": data}]}
