"""The runner beside MLServer 1.7.1 and the bare interpreter: same model, same requests, in turns, in one run.

    python -m benchmarks.serving [--rounds 5] [--json FILE] [--without-mlserver]

The model is a small MLP ([1, 128] float32), made with torch and litert-torch. Clients are raw sockets that keep their
connection and send prepared bytes, so what is measured is the server. MLServer gets a virtual environment of its own,
runs the model in its own process (`parallel_workers` 0, its fastest way) and writes no log.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import platform
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.peers.environment import environment
from edge_agent.inprocess import LiveModel
from edge_agent.layout import Layout
from edge_agent.pointer import ActivePointer
from edge_agent.protocol.manifest import Encoding, FileRole, ObjectDescriptor, PayloadFile, VariantManifest
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import ModelSignature, TensorSpec
from edge_agent.runner.control import FROM_RUNNER, Beat, Proven, Refused, Routes, RunnerSpec, Serve, Serving, line
from edge_agent.runtimes.convert import bind
from edge_agent.runtimes.registry import open_runtime
from edge_agent.storage.variants import VariantFolders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edge_agent.protocol.base import Wire

MLSERVER_VERSION = "1.7.1"
FEATURES, HIDDEN, CLASSES = 128, 64, 10
LOAD_CONNECTIONS = 8
TOLERANCE = 1e-5
SIGNATURE = ModelSignature(
    inputs=(TensorSpec(name="features", shape=(-1, FEATURES)),),
    outputs=(TensorSpec(name="scores", shape=(-1, CLASSES)),),
)


@dataclass
class Contender:
    """One way to have an inference, and what was measured of it."""

    name: str
    port: int | None = None
    call: Callable[[], object] | None = None  # in this process, instead of a port
    model: str = "mlp"
    pids: tuple[int, ...] = ()
    taken_ms: dict[str, list[float]] = field(default_factory=lambda: {"json": [], "binary": []})
    rates: dict[str, list[float]] = field(default_factory=lambda: {"json": [], "binary": []})
    refused: dict[str, str] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """The result as plain data."""
        found: dict[str, Any] = {"name": self.name, **self.memory, "refused": self.refused}
        for kind in ("json", "binary"):
            if taken := self.taken_ms[kind]:
                p50, p99 = np.percentile(taken, (50, 99))
                found[kind] = {"n": len(taken), "p50_ms": float(p50), "p99_ms": float(p99)}
            if rates := self.rates[kind]:
                found[kind]["requests_per_s"] = float(np.median(rates))
        return found


class Client:
    """A connection that is kept; requests are bytes prepared before."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer."""
        self.socket.sendall(request)
        while True:
            if (answer := self.take()) is not None:
                return answer
            self.feed()

    def feed(self) -> None:
        """Read what has come."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server hung up")
        self._buffer += data

    def take(self) -> tuple[int, bytes, bytes] | None:
        """A whole answer, if it is here."""
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return None
        lower = head.lower()
        at = lower.index(b"content-length:") if not lower.startswith(b"content-length:") else 0
        while lower[at - 1 : at] == b"-":  # of Inference-Header-Content-Length
            at = lower.index(b"content-length:", at + 1)
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        return int(head[9:12]), head, rest[:length]


def requests_of(model: str, values: np.ndarray[Any, Any]) -> dict[str, bytes]:
    """The same inference as JSON, and as a binary tensor that asks for a binary answer."""
    tensor = {"name": "features", "shape": list(values.shape), "datatype": "FP32"}
    plain = json.dumps({"inputs": [{**tensor, "data": values.ravel().tolist()}]}).encode()
    content = values.tobytes()
    head = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(content)}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    start = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: ".encode()
    return {
        "json": b"%bapplication/json\r\nContent-Length: %d\r\n\r\n%b" % (start, len(plain), plain),
        "binary": b"%bapplication/octet-stream\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%b%b"
        % (start, len(head), len(head) + len(content), head, content),
    }


def scores_of(kind: str, head: bytes, body: bytes) -> np.ndarray[Any, Any]:
    """The numbers of an answer."""
    if kind == "json":
        return np.array(json.loads(body)["outputs"][0]["data"], dtype=np.float32)
    length = next(h.split(b":")[1] for h in head.lower().split(b"\r\n") if h.startswith(b"inference-header"))
    return np.frombuffer(body[int(length) :], dtype=np.float32)


def saturate(port: int, request: bytes, seconds: float) -> float:
    """Answers per second to some connections that always have a question."""
    clients = [Client(port) for _ in range(LOAD_CONNECTIONS)]
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.socket, selectors.EVENT_READ, client)
        client.socket.sendall(request)
    done, began_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        for key, _ in selector.select(1.0):
            key.data.feed()
            if key.data.take() is not None:
                done += 1
                key.data.socket.sendall(request)
    for client in clients:
        client.socket.close()
    return done / elapsed_s


def make_model(path: Path) -> None:
    """A two-layer network as a LiteRT file; in a process of its own, so that torch is not in the one that measures."""
    code = (
        "import sys, torch, litert_torch; torch.manual_seed(1);"
        f"net = torch.nn.Sequential(torch.nn.Linear({FEATURES}, {HIDDEN}), torch.nn.ReLU(),"
        f" torch.nn.Linear({HIDDEN}, {CLASSES})).eval();"
        f"litert_torch.convert(net, (torch.zeros(1, {FEATURES}),)).export(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the model could not be made: {done.stderr[-600:]}")


def describe(path: Path, model: str) -> VariantManifest:
    """The manifest of the file, as the registry would write it."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.XNNPACK)
    return VariantManifest(
        variant_id=f"{model}-float32",
        model=model,
        version="1",
        profile="bench",
        recipe="float32",
        runtime=RuntimeName.LITERT,
        delegate=Delegate.XNNPACK,
        signature=SIGNATURE,
        inputs=bind(SIGNATURE.inputs, loaded.inputs),
        outputs=bind(SIGNATURE.outputs, loaded.outputs),
        files=(PayloadFile(role=FileRole.MODEL, sha256=sha256, size_bytes=len(data)),),
        payload_sha256=sha256,
        object=ObjectDescriptor.describe(data, encoding=Encoding.IDENTITY),
    )


def start_child(stack: ExitStack, module: str, listener: socket.socket, first: Iterable[Wire], wait: type) -> int:
    """Start a runner or the front as the supervisor does, and let it serve; its process id."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    command = [sys.executable, "-m", module, "--control-fd", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(), listener.fileno()), stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    theirs.close()
    lines = stack.enter_context(ours.makefile("rb"))
    for message in first:
        ours.sendall(line(message))
    _await(lines, wait)
    ours.sendall(line(Serve(descriptors=(listener.fileno(),))))
    _await(lines, Serving)
    return process.pid


def _await(lines: Iterable[bytes], kind: type) -> None:
    for text in lines:
        if isinstance(message := FROM_RUNNER.validate_json(text), kind):
            return
        if isinstance(message, Refused):
            raise SystemExit(f"the runner refuses the model: {message.detail}")
    raise SystemExit(f"a child ended before it said {kind.__name__}")


def start_runner(stack: ExitStack, path: Path, model: str, listener: socket.socket) -> int:
    """A runner that accepts on this socket and writes its journal, as on a device; its process id."""
    journal = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    spec = RunnerSpec(deployment_id="bench", manifest=describe(path, model), model_path=path, journal_dir=journal)
    return start_child(stack, "edge_agent.runner", listener, [spec], Proven)


def listen(stack: ExitStack, path: Path | None = None) -> socket.socket:
    """A listening socket: a free loopback port, or a Unix socket."""
    listener = stack.enter_context(socket.socket(socket.AF_INET if path is None else socket.AF_UNIX))
    listener.bind(("127.0.0.1", 0) if path is None else str(path))
    listener.listen(128)
    return listener


def start_front(stack: ExitStack, path: Path, folder: Path) -> tuple[int, tuple[int, ...]]:
    """Two models behind the front; its port and all process ids."""
    sockets = {model: folder / f"{model}.sock" for model in ("mlp", "other")}
    runners = [start_runner(stack, path, model, listen(stack, at)) for model, at in sockets.items()]
    port = listen(stack)
    front = start_child(stack, "edge_agent.front", port, [Routes(sockets=sockets)], Beat)
    return port.getsockname()[1], (front, *runners)


def start_mlserver(stack: ExitStack, path: Path, folder: Path) -> tuple[int, int]:
    """MLServer with the same file; its port and process id."""
    python = environment("mlserver", (f"mlserver=={MLSERVER_VERSION}", f"ai-edge-litert=={version('ai-edge-litert')}"))
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    shutil.copy(Path(__file__).parent / "peers" / "mlserver_litert.py", folder)
    settings = {"host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2]}
    (folder / "settings.json").write_text(json.dumps({**settings, "debug": False, "parallel_workers": 0}))
    parameters = {"uri": str(path), "version": "1"}
    model = {"name": "mlp", "implementation": "mlserver_litert.LiteRtModel", "parameters": parameters}
    (folder / "model-settings.json").write_text(json.dumps(model))
    log = stack.enter_context((folder / "log").open("wb"))
    process = subprocess.Popen([python.parent / "mlserver", "start", folder], stdout=log, stderr=log)
    stack.callback(process.wait)
    stack.callback(process.kill)
    give_up_s = time.monotonic() + 60
    while time.monotonic() < give_up_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=5)
        try:
            connection.request("GET", "/v2/models/mlp/ready")
            if connection.getresponse().status == http.client.OK:
                return ports[0], process.pid
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise SystemExit(f"MLServer did not start: {(folder / 'log').read_text()[-800:]}")


def open_live_model(stack: ExitStack, path: Path, folder: Path) -> LiveModel:
    """The same file as an application on the device would open it."""
    layout = Layout(folder)
    folders = VariantFolders(layout)
    manifest = describe(path, "mlp")
    installed = layout.variant_dir("bench")
    installed.mkdir()
    (installed / "manifest.json").write_text(manifest.model_dump_json())
    shutil.copy(path, installed / "model")
    pointer = ActivePointer(
        deployment_id="bench",
        model="mlp",
        version="1",
        variant_id=manifest.variant_id,
        variant_dir="variants/bench",
        model_sha256=manifest.model_file.sha256,
    )
    folders.point(pointer)
    return stack.enter_context(LiveModel.open("mlp", folder))


def memory_of(pids: Iterable[int]) -> dict[str, float]:
    """Resident and proportional memory of processes, in MB."""
    totals = {"Rss": 0, "Pss": 0}
    for pid in pids:
        for text in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name = text.split(":")[0]
            if name in totals:
                totals[name] += int(text.split()[1])
    return {"rss_mb": totals["Rss"] / 1024, "pss_mb": totals["Pss"] / 1024}


def measure(contender: Contender, values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], runs: int) -> None:
    """One turn of a contender; what it refuses is a result too."""
    if contender.call is not None:
        for _ in range(runs):
            began_s = time.perf_counter()
            contender.call()
            contender.taken_ms["binary"].append((time.perf_counter() - began_s) * 1e3)
        return
    assert contender.port is not None
    for kind, request in requests_of(contender.model, values).items():
        client = Client(contender.port)
        status, head, body = client.ask(request)
        if status != http.client.OK:
            contender.refused[kind] = f"{status}"
            client.socket.close()
            continue
        if np.abs(scores_of(kind, head, body).ravel() - expected.ravel()).max() > TOLERANCE:
            raise SystemExit(f"{contender.name} gives other numbers than the interpreter")
        for _ in range(runs):
            began_s = time.perf_counter()
            client.ask(request)
            contender.taken_ms[kind].append((time.perf_counter() - began_s) * 1e3)
        client.socket.close()
        contender.rates[kind].append(saturate(contender.port, request, 1.0))
    contender.memory = memory_of(contender.pids)


def in_process(live: LiveModel, path: Path, values: np.ndarray[Any, Any]) -> list[Contender]:
    """The bare interpreter with the same copies in and out, and the model that follows updates."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def invoke() -> object:
        interpreter.set_tensor(first, values)
        interpreter.invoke()
        return interpreter.get_tensor(last)

    return [
        Contender("bare Interpreter.invoke", call=invoke),
        Contender("in-process run", call=lambda: live.run(values)),
    ]


def goals_of(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What was asked for, and what came out."""
    runner, peer = found["runner"], found.get(f"MLServer {MLSERVER_VERSION}")
    added_us = (
        found["in-process run"]["binary"]["p50_ms"] - found["bare Interpreter.invoke"]["binary"]["p50_ms"]
    ) * 1e3
    goals = {
        "runner JSON p50 ms": {"at_most": 0.5, "got": runner["json"]["p50_ms"]},
        "runner binary p50 ms": {"at_most": 0.4, "got": runner["binary"]["p50_ms"]},
        "in-process run adds us": {"at_most": 30.0, "got": added_us},
    }
    if peer is not None:
        ratio = runner["json"]["requests_per_s"] / peer["json"]["requests_per_s"]
        goals["runner's JSON requests/s over MLServer's"] = {"at_least": 2.0, "got": ratio}
    for goal in goals.values():
        goal["met"] = goal["got"] <= goal.get("at_most", np.inf) and goal["got"] >= goal.get("at_least", -np.inf)
    return goals


def show(results: list[dict[str, Any]], goals: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    columns = ("JSON p50", "p99", "requests/s", "binary p50", "p99", "requests/s", "RSS MB", "PSS MB")
    print(f"{'ms; [1, 128] float32':26}" + "".join(f"{column:>12}" for column in columns))
    for result in results:
        cells = []
        for kind in ("json", "binary"):
            figures = result.get(kind)
            if figures is None:
                cells += [f"refused {result['refused'][kind]}" if kind in result["refused"] else "-", "", ""]
                continue
            rate = figures.get("requests_per_s")
            cells += [f"{figures['p50_ms']:.3f}", f"{figures['p99_ms']:.3f}", "-" if rate is None else f"{rate:.0f}"]
        cells += [f"{result[name]:.1f}" if name in result else "-" for name in ("rss_mb", "pss_mb")]
        print(f"{result['name']:26}" + "".join(f"{cell:>12}" for cell in cells))
    print(f"requests/s: {LOAD_CONNECTIONS} connections; the two in-process rows stand under binary: they take arrays.")
    if any(result["refused"] for result in results):
        print("MLServer can't read the binary tensors that tritonclient sends by default: it answers 422 or 500.")
    for name, goal in goals.items():
        limit = f"at most {goal['at_most']}" if "at_most" in goal else f"at least {goal['at_least']}"
        print(f"{'met   ' if goal['met'] else 'MISSED'} {name}: {goal['got']:.3f} ({limit})")


def main() -> None:
    """Start everybody, let them take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1000, help="requests of each kind in each turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--without-mlserver", action="store_true")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "mlp.tflite"
        make_model(path)
        for name in ("live", "peer"):
            (folder / name).mkdir()
        values = np.random.default_rng(0).normal(size=(1, FEATURES)).astype(np.float32)
        listener = listen(stack)
        pid = start_runner(stack, path, "mlp", listener)
        contenders = [Contender("runner", port=listener.getsockname()[1], pids=(pid,))]
        port, pids = start_front(stack, path, folder)
        contenders.append(Contender("front + 2 runners", port=port, pids=pids))
        if not arguments.without_mlserver:
            port, pid = start_mlserver(stack, path, folder / "peer")
            contenders.append(Contender(f"MLServer {MLSERVER_VERSION}", port=port, pids=(pid,)))
        contenders += in_process(open_live_model(stack, path, folder / "live"), path, values)
        bare = contenders[-2]
        assert bare.call is not None
        expected = np.asarray(bare.call())
        for _ in range(arguments.rounds):
            for contender in contenders:
                measure(contender, values, expected, arguments.runs)
    results = [contender.figures() for contender in contenders]
    goals = goals_of({result["name"]: result for result in results})
    show(results, goals)
    if arguments.json is not None:
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        versions = {name: version(name) for name in ("ai-edge-litert", "uvicorn", "httptools", "orjson", "numpy")}
        document = {"machine": machine, "versions": versions, "results": results, "goals": goals}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
