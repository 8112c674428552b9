"""What the agent costs a device: memory, time to connect, bytes written. Real broker, real runner, one small model.

Measures what users have: the wheel is built from this checkout and installed with the `agent` extra and the versions of
`requirements/agent-litert.txt` into an environment of its own, away from the checkout (an editable install and the
`.pth` files of a development environment cost memory themselves). `--here` measures the environment that runs this.

Prints a table, or JSON with `--json`. A goal that is missed is named; with `--strict` it is an error. Linux only: the
figures come from /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.deployments.events import Persist
from edge_agent.deployments.records import Accepted, DeploymentRecord, ModelSlot
from edge_agent.layout import Layout
from edge_agent.link import identity as identities
from edge_agent.protocol.manifest import (
    Encoding,
    FileRole,
    ObjectDescriptor,
    PayloadFile,
    TensorBinding,
    VariantManifest,
)
from edge_agent.protocol.messages import Desired, DesiredDeployment, Presence, Status, decode
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from edge_agent.protocol.topics import DeviceTopic, device_topic
from edge_agent.storage.store import StateStore

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "bench-device"
GOALS = {
    "supervisor_rss_mb": 36.0,
    "supervisor_and_runner_pss_mb": 75.0,
    "both_pss_after_requests_mb": 75.0,
    "start_to_connected_s": 1.5,
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--here", action="store_true", help="measure this environment instead of a clean one")
    parser.add_argument("--idle-seconds", type=float, default=90.0, help="span from which an hour is extrapolated")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="shoal-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        python = Path(sys.executable) if options.here else install(folder)
        figures = measure(folder, stack, python.with_name("edge-agent"), idle_s=options.idle_seconds)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            goal = f"  (goal: at most {GOALS[name]:g})" if name in GOALS else ""
            print(f"{name:<40} {value:>12.2f}{goal}")
        print("measured in this environment" if options.here else "measured in a new environment with the built wheel")
        print(
            f"idle writes: write_bytes of /proc/PID/io over {options.idle_seconds:.0f} s, times "
            f"{3600 / options.idle_seconds:.0f}; the page cache of the databases included, a whole page for each change"
        )
    missed = [name for name, goal in GOALS.items() if figures[name] > goal]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed and options.strict else 0


def install(folder: Path) -> Path:
    """A new environment with the wheel of this checkout and the `agent` extra; its Python."""
    wheels, environment = folder / "wheels", folder / "venv"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    source = folder / "source"  # built from a copy: the checkout stays as it is
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("edge_agent", "compressors", "server", "deploy"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source], check=True, env=clean, cwd=folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, env=clean, cwd=folder)
    python = environment / "bin" / "python"
    wheel = next(wheels.glob("shoal-*.whl"))
    constraints = ROOT / "requirements" / "agent-litert.txt"
    command = [
        *pip,
        "--python",
        str(python),
        "install",
        "--constraint",
        str(constraints),
        f"shoal[agent] @ {wheel.as_uri()}",
    ]
    subprocess.run(command, check=True, env=clean, cwd=folder)
    return python


def measure(folder: Path, stack: ExitStack, command: Path, *, idle_s: float) -> dict[str, float]:
    """All figures, in order."""
    port = start_broker(folder, stack)
    layout = Layout(folder / "agent")
    layout.root.mkdir()
    join(layout, port)
    seen = Seen(port)
    stack.callback(seen.close)

    started = [start_agent_until_connected(command, layout, seen, stack) for _ in range(3)]
    agent = started[-1][0]
    seen.wait(lambda kind, _message: kind is DeviceTopic.STATUS)
    time.sleep(5)  # imports and first messages are over
    figures = {
        "start_to_connected_s": sorted(seconds for _, seconds in started)[1],
        "supervisor_rss_mb": memory_mb(agent.pid, "Rss"),
        "supervisor_pss_mb": memory_mb(agent.pid, "Pss"),
    }
    before = written_bytes(agent.pid)
    time.sleep(idle_s)
    figures["supervisor_rss_after_idle_mb"] = memory_mb(agent.pid, "Rss")
    figures["disk_bytes_written_per_idle_hour"] = (written_bytes(agent.pid) - before) * 3600 / idle_s
    stop(agent)

    install_small_model(layout)
    agent, _ = start_agent_until_connected(command, layout, seen, stack)
    seen.wait(
        lambda kind, m: kind is DeviceTopic.STATUS and isinstance(m, Status) and any(d.serving for d in m.deployments)
    )
    time.sleep(3)
    runners = children(agent.pid)
    figures["supervisor_rss_with_a_model_mb"] = memory_mb(agent.pid, "Rss")
    figures["runner_pss_mb"] = sum(memory_mb(pid, "Pss") for pid in runners)
    figures["supervisor_and_runner_pss_mb"] = memory_mb(agent.pid, "Pss") + figures["runner_pss_mb"]
    infer(layout, times=500)
    figures["runner_pss_after_requests_mb"] = sum(memory_mb(pid, "Pss") for pid in runners)
    figures["both_pss_after_requests_mb"] = memory_mb(agent.pid, "Pss") + figures["runner_pss_after_requests_mb"]
    before = written_bytes(agent.pid, *runners)
    time.sleep(idle_s)
    figures["disk_bytes_written_per_idle_hour_serving"] = (written_bytes(agent.pid, *runners) - before) * 3600 / idle_s
    stop(agent)
    return figures


class Seen:
    """A registry that only listens."""

    def __init__(self, port: int) -> None:
        self._messages: queue.Queue[tuple[DeviceTopic, Presence | Status]] = queue.Queue()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        for kind in (DeviceTopic.PRESENCE, DeviceTopic.STATUS):
            self._client.subscribe(device_topic(DEVICE, kind), qos=1)
        self._client.loop_start()

    def wait(self, wanted: Callable[[DeviceTopic, Presence | Status], bool], *, timeout_s: float = 30.0) -> None:
        """Wait for a message."""
        give_up_at = time.monotonic() + timeout_s
        while not wanted(*self._messages.get(timeout=max(0.01, give_up_at - time.monotonic()))):
            pass

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.topic.endswith(DeviceTopic.PRESENCE):
            self._messages.put((DeviceTopic.PRESENCE, decode(Presence, payload)))
        else:
            self._messages.put((DeviceTopic.STATUS, decode(Status, payload)))


def start_broker(folder: Path, stack: ExitStack) -> int:
    """Mosquitto on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "mosquitto"
    broker = subprocess.Popen([path, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(stop, broker)
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return port
        time.sleep(0.02)


def join(layout: Layout, port: int) -> None:
    """An identity, saved by the agent's own function: joining itself happens once in a device's life."""
    identities.save(
        layout,
        identities.Identity(
            device_id=DEVICE,
            profile="bench",
            registry_url="http://127.0.0.1:9",
            mqtt_url=f"mqtt://127.0.0.1:{port}",
            key="ab" * 32,
        ),
    )


def start_agent_until_connected(
    agent: Path, layout: Layout, seen: Seen, stack: ExitStack
) -> tuple[subprocess.Popen[bytes], float]:
    """Start the command that a user starts; the seconds until the registry sees it online."""
    for process in running:
        stop(process)
    command = [str(agent), "start"]
    command += ["--data-dir", str(layout.root), "--listen", "unix"]
    # an installed package is compiled; so is this one, from the second start on
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = time.monotonic()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=layout.root)
    running.append(process)
    stack.callback(stop, process)
    seen.wait(lambda _kind, message: isinstance(message, Presence) and message.online and message.sent_at > 0)
    return process, time.monotonic() - before


running: list[subprocess.Popen[bytes]] = []


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that this program has started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def install_small_model(layout: Layout) -> None:
    """One active variant of a few hundred bytes, as the agent itself would have left it on the disk."""
    model = tiny_model()
    digest = hashlib.sha256(model).hexdigest()
    manifest = VariantManifest(
        variant_id="tiny-1",
        model="tiny",
        version="1",
        profile="bench",
        recipe="none",
        runtime=RuntimeName.LITERT,
        delegate=Delegate.XNNPACK,
        signature=ModelSignature(
            inputs=(TensorSpec(name="x", shape=(-1, 8)),), outputs=(TensorSpec(name="y", shape=(-1, 8)),)
        ),
        inputs=(TensorBinding(name="x", index=0, datatype=Datatype.FP32, shape=(1, 8)),),
        outputs=(TensorBinding(name="y", index=0, datatype=Datatype.FP32, shape=(1, 8)),),
        files=(PayloadFile(role=FileRole.MODEL, sha256=digest, size_bytes=len(model)),),
        payload_sha256=digest,
        object=ObjectDescriptor.describe(model, encoding=Encoding.IDENTITY),
    )
    text = manifest.model_dump_json().encode()
    sha256 = hashlib.sha256(text).hexdigest()
    folder = layout.variant_dir(sha256)
    folder.mkdir(parents=True)
    (folder / FileRole.MODEL).write_bytes(model)
    (folder / "manifest.json").write_bytes(text)
    wanted = DesiredDeployment(
        deployment_id="d1",
        model="tiny",
        version="1",
        variant_id="tiny-1",
        manifest_sha256=sha256,
        manifest_bytes=len(text),
    )
    desired = Desired(epoch=1, generation=1, deployments=(wanted,))
    record = DeploymentRecord.model_validate({"wanted": wanted, "state": "active", "file_sha256": digest})
    store = StateStore(layout.state_db)
    accepted = Accepted(epoch=desired.epoch, generation=desired.generation, wanted=("d1",))
    store.persist(Persist(records=(record,), slots=(ModelSlot(model="tiny", active="d1"),), accepted=accepted))
    store.close()


def infer(layout: Layout, *, times: int) -> None:
    """Requests of one client that keeps its connection: what a runner needs to answer is in memory afterwards."""
    document = {"inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP32", "data": [[1.0] * 8]}]}
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(layout.model_socket("tiny")))
    for _ in range(times):
        connection.request("POST", "/v2/models/tiny/infer", body=json.dumps(document))
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise RuntimeError(f"the runner answered {answer.status}: {answer.read()!r}")
        answer.read()
    connection.close()


def tiny_model() -> bytes:
    """One addition as a .tflite file."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], [schema.OperatorCodeT()]
    constant = schema.BufferT()
    constant.data = np.frombuffer(np.ones(8, dtype=np.float32).tobytes(), dtype=np.uint8)
    model.buffers.append(constant)
    graph.tensors, graph.name = [], b"main"
    for name, shape, buffer in (("x", [1, 8], 0), ("one", [8], 1), ("y", [1, 8], 0)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.hasRank = name.encode(), shape, buffer, True
        graph.tensors.append(tensor)
    step = schema.OperatorT()
    step.inputs, step.outputs = [0, 1], [2]
    step.builtinOptionsType, step.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.operators, graph.inputs, graph.outputs = [step], [0], [2]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def memory_mb(pid: int, kind: str) -> float:
    """Rss or Pss of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no {kind}")


def written_bytes(*pids: int) -> int:
    """Bytes that processes have sent to storage so far."""
    total = 0
    for pid in pids:
        facts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        total += int(facts["write_bytes"])
    return total


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


if __name__ == "__main__":
    sys.exit(main())
