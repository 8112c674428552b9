"""A device in the middle of its life, to be hit: version 1 serves, version 2 is wanted. The agent is the real one."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.protocol import bitmap
from edge_agent.protocol.messages import AskKind
from tests.edge_agent.surroundings.device import Device
from tests.edge_agent.surroundings.waiting import free_port, until
from tests.faults.points import LateError
from tests.faults.record import RECORDED, Call, calls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.edge_agent.surroundings.broker import Broker
    from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

OFFLINE_LIMIT_S = 5.0  # from the start to an answer, with no network
OFFLINE_PATIENCE_S = 60.0  # who answers by then is late, who does not is lost
STRACE = ("strace", "-D", "-qq")
_AS_INTERPRETER = (
    "import sys; sys.executable = sys.argv.pop(1); from edge_agent.cli import main; sys.exit(main(sys.argv[1:]))"
)


class Wire:
    """The way to the broker, which can be cut: forwards connections, or refuses and drops them."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.whole = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.whole = False
        for end in self._pairs:
            _shut(end)
        self._pairs.clear()

    def mend(self) -> None:
        self.whole = True

    def close(self) -> None:
        self.cut()
        _shut(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.whole:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with source:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        _shut(sink)


@dataclass
class Scene:
    """The far end, and the folder of a device that every point begins from."""

    folder: Path
    broker: Broker
    registry: MqttRegistry
    wire: Wire
    old: ToyVariant
    new: ToyVariant
    stages: bool = False  # version 2 is to lie ready first, and is activated as soon as it does
    last: Device | None = None
    generation: int = 2

    @property
    def baseline(self) -> Path:
        return self.folder / "baseline"

    @property
    def joined(self) -> Path:
        """A device that has an identity and nothing else."""
        return self.folder / "joined"

    def prepare(self) -> None:
        """A device that serves version 1 and has been stopped; from now on version 2 is wanted."""
        device = self.device(self.folder / "first")
        device.join()
        shutil.copytree(device.root, self.joined)
        self.registry.want(1, {"d1": self.old})
        device.start()
        self.registry.expect_serving("d1")
        device.stop()
        shutil.copytree(device.root, self.baseline, ignore=shutil.ignore_patterns("run"))
        self._want_the_new()

    def _want_the_new(self) -> None:
        if not self.stages:
            self.registry.want(self.generation, {"d2": self.new})
            return
        self.registry.on_held = self._activate
        self.generation += 1  # a point before has brought it about that it was activated
        self.registry.want(self.generation, {"d1": self.old}, staged={"d2": self.new})

    def _activate(self) -> None:
        if self.registry.desired.staged:
            self.generation += 1
            self.registry.want(self.generation, {"d2": self.new})

    def device(self, folder: Path) -> Device:
        folder.mkdir()
        return Device(folder / "agent", f"mqtt://127.0.0.1:{self.wire.port}")

    def fresh(self, beginning: Path | None = None) -> Device:
        """A device as the baseline or another beginning has it, where the last one was: all runs have the same paths.

        The last one is killed, for it may have failed: two with one name would take the connection from each other.
        """
        self.close()
        shutil.rmtree(self.folder / "at", ignore_errors=True)
        device = self.device(self.folder / "at")
        shutil.copytree(beginning or self.baseline, device.root)
        self.last = device
        self.wire.mend()
        self.forget()
        if self.stages:
            self._want_the_new()
        return device

    def close(self) -> None:
        if self.last is not None:
            self.last.kill()

    def forget(self) -> None:
        self.registry.statuses.clear()
        self.registry.asks.clear()

    def record(self, beginning: Path | None = None) -> list[Call]:
        """The whole update, undisturbed: what the agent did to its folder."""
        device = self.fresh(beginning)
        out = self.folder / "record.txt"
        traced = ("-f", "-y", "-xx", "-s", "16777216", "-o", str(out), "-e", f"trace={','.join(RECORDED)}")
        start(device, strace=traced)
        self.registry.expect_serving("d2", timeout_s=60)
        device.kill()
        time.sleep(0.5)  # strace writes its last lines
        return list(calls(out.read_text().splitlines()))

    def expect_mended(self, device: Device) -> None:
        """Restarted without a network it answers at once; with one it ends where it was told to, and says so truly."""
        self.wire.cut()
        self.forget()
        device.port = free_port()  # nothing that is left of the killed one can answer
        right = right_blocks(device, self.new)
        try:
            device.start()
            began_s = time.monotonic()
            until(device.infer, timeout_s=OFFLINE_PATIENCE_S, what=lambda: f"an answer offline\n{device.log}")
            took_s = time.monotonic() - began_s
            self.wire.mend()
            self.registry.expect_serving("d2", timeout_s=40)
            device.expect_answer("2")
            self._expect_true_record()
            self._expect_nothing_fetched_again(right)
        finally:
            self.wire.mend()
            device.kill()
        if took_s > OFFLINE_LIMIT_S:
            raise LateError(f"answered offline after {took_s:.1f} s, {OFFLINE_LIMIT_S:g} s it may take")

    def _expect_true_record(self) -> None:
        said = {d.deployment_id: d for d in self.registry.statuses[-1].deployments}
        assert said["d2"].serving
        assert not any(d.serving for name, d in said.items() if name != "d2")
        assert said["d2"].file_sha256 == self.new.manifest.model_file.sha256

    def _expect_nothing_fetched_again(self, right: int | None) -> None:
        first = next((a for a in self.registry.asks if a.kind is AskKind.BLOCKS), None)
        if first is None or right is None:
            return
        count = self.new.manifest.object.block_count
        assert len(bitmap.unpack(first.missing or b"", count=count)) <= count - right


def right_blocks(device: Device, variant: ToyVariant) -> int | None:
    """Blocks on the disk that need not come again; None: no transfer has begun."""
    data = device.layout.transfer_dir(variant.object_sha256) / "data"
    if not data.exists():
        return None
    content, described = data.read_bytes(), variant.manifest.object
    spans = [described.block_span(index) for index in range(described.block_count)]
    return sum(content[at : at + size] == variant.travelling[at : at + size] for at, size in spans)


def start(device: Device, *, strace: tuple[str, ...] = (), unpacking: tuple[str, ...] = ()) -> None:
    """Start an agent under strace, or its unpacking: where that dies of a signal, so does the agent."""
    command = device.command()
    if unpacking:
        interpreter = device.root.parent / "python"
        traced = " ".join([*("strace", "-qq"), *unpacking, sys.executable])
        interpreter.write_text(
            f'#!/bin/sh\ncase "$*" in\n*edge_agent.transfer.unpack*) {traced} "$@"\n'
            f'code=$?; [ $code -lt 128 ] || kill -9 $PPID; exit $code;;\nesac\nexec {sys.executable} "$@"\n'
        )
        interpreter.chmod(0o755)
        command[1:3] = ["-c", _AS_INTERPRETER, str(interpreter)]
    prefix = [*STRACE, *strace] if strace else []
    with (device.root.parent / "agent.log").open("ab") as log:
        device.process = subprocess.Popen([*prefix, *command], stderr=log)


def died(device: Device, *, timeout_s: float = 30.0) -> bool:
    """Whether the agent was killed, and not by us; False when it reached its end instead."""
    if device.process is None:
        return False
    try:
        code = device.process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    device.process = None
    return code == -signal.SIGKILL


def state_changes(recorded: list[Call]) -> Iterator[tuple[int, str]]:
    """Where in a record the update enters a state, and which."""
    seen = ""
    for index, call in enumerate(recorded):
        if call.name == "pwrite64" and "state.db" in call.path and b'"deployment_id":"d2"' in call.data:
            state = call.data.partition(b'"state":"')[2].partition(b'"')[0].decode()
            if state and state != seen:
                seen = state
                yield index, state
