"""A runner that speaks the control protocol and behaves as its model file says: what the supervisor is tested with.

It implements our own contract (`edge_agent.runner.control`) without an interpreter, so that crashes, hangs and refusals
come exactly when a test wants them.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from edge_agent.protocol.messages import LatencySketch, SelfTestReport, TelemetryReport
from edge_agent.protocol.states import Reason
from edge_agent.runner.control import (
    TO_RUNNER,
    Beat,
    Drain,
    Drained,
    Proven,
    Refused,
    RunnerSpec,
    Serve,
    Serving,
    SetWindow,
    StopAccepting,
    Window,
    line,
)

if TYPE_CHECKING:
    from edge_agent.protocol.base import Wire

BEAT_S = 0.2


class ToyRunner:
    def __init__(self, control: socket.socket) -> None:
        self.control, self.buffer = control, b""
        self.selector = selectors.DefaultSelector()
        self.listening: dict[int, socket.socket] = {}
        self.inferences = self.in_window = 0
        self.draining = False
        self.spec = self.read_spec()
        self.behaviour = json.loads(self.spec.model_path.read_bytes().partition(b"\n")[0])["behaviour"]

    def say(self, message: Wire) -> None:
        with contextlib.suppress(OSError):
            self.control.sendall(line(message))

    def read_spec(self) -> RunnerSpec:
        while b"\n" not in self.buffer:
            data = self.control.recv(1 << 16)
            if not data:
                sys.exit(0)  # the supervisor was killed before it said a word
            self.buffer += data
        first, _, self.buffer = self.buffer.partition(b"\n")
        spec = TO_RUNNER.validate_json(first)
        if not isinstance(spec, RunnerSpec):
            raise TypeError(first)
        return spec

    def prove(self) -> bool:
        report = SelfTestReport(
            passed=True, runtime=self.spec.manifest.runtime, delegate=self.spec.manifest.delegate, p95_ms=1.0, runs=3
        )
        if self.behaviour == "slow_proof":
            time.sleep(1.0)
        if self.behaviour == "crash_on_load":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.behaviour == "refuse":
            failed = report.model_copy(update={"passed": False, "golden_max_error": 3.5})
            self.say(Refused(reason=Reason.GOLDEN_MISMATCH, detail="off by 3.5", report=failed))
            return False
        if self.behaviour == "garbage":
            self.control.sendall(b"this is not the protocol\n")
            time.sleep(30)
        self.say(Proven(report=report))
        return True

    def run(self) -> None:
        self.selector.register(self.control, selectors.EVENT_READ, "control")
        beat_at = 0.0
        while not self.draining:
            for key, _ in self.selector.select(BEAT_S):
                if key.data == "control":
                    self.told()
                else:
                    self.answer(key.fd)
            if self.behaviour == "hang" and self.listening:
                time.sleep(60)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_S
                self.say(Beat(inferences=self.inferences))
                self.cut_window()
            if self.behaviour == "crash_when_serving" and self.listening:
                os._exit(3)
        self.cut_window()
        self.say(Drained())

    def told(self) -> None:
        data = self.control.recv(1 << 16)
        if not data:
            sys.exit(0)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for text in lines:
            message = TO_RUNNER.validate_json(text)
            match message:
                case Serve():
                    for descriptor in message.descriptors:
                        self.listening[descriptor] = listener = socket.socket(fileno=os.dup(descriptor))
                        listener.setblocking(False)
                        self.selector.register(listener, selectors.EVENT_READ, "accept")
                    self.say(Serving())
                case StopAccepting():
                    for descriptor in message.descriptors:
                        self.selector.unregister(listener := self.listening.pop(descriptor))
                        listener.close()
                case Drain():
                    self.draining = True
                case SetWindow() | RunnerSpec():
                    pass

    def answer(self, fd: int) -> None:
        listener = next(found for found in self.listening.values() if found.fileno() == fd)
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        with connection:
            connection.settimeout(5)
            request = connection.recv(1 << 16)
            if not request:
                return
            self.inferences += 1
            self.in_window += 1
            body = json.dumps({"version": self.spec.manifest.version, "deployment": self.spec.deployment_id}).encode()
            head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)
        if self.behaviour == "crash_on_request":
            os._exit(4)

    def cut_window(self) -> None:
        if not self.in_window:
            return
        manifest = self.spec.manifest
        sketch = LatencySketch(offset=0, bins=(self.in_window,), min_ms=1.0, max_ms=1.0, sum_ms=float(self.in_window))
        report = TelemetryReport(
            spool_id="0" * 32,
            sequence=0,
            model=manifest.model,
            version=manifest.version,
            variant_id=manifest.variant_id,
            deployment_id=self.spec.deployment_id,
            window_start=time.time(),
            window_s=BEAT_S,
            requests=self.in_window,
            inferences=self.in_window,
            invoke=sketch,
        )
        self.in_window = 0
        self.say(Window(report=report))


if __name__ == "__main__":
    runner = ToyRunner(socket.socket(fileno=int(sys.argv[sys.argv.index("--control-fd") + 1])))
    if runner.prove():
        runner.run()
