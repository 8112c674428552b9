"""A toy runner that answers a day's requests of its own accord, in windows of a few milliseconds, and keeps a diary.

    busy_runner.py --diary FILE --windows N [--dies-after N ...] --control-fd N

What it counts goes through the real journal. The diary has a line for each window, with its requests: the truth that
telemetry is held against. It dies of `kill -9` right after the lines that it is told, its window unsent.
"""

from __future__ import annotations

import argparse
import os
import random
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.protocol.messages import LatencySketch, TelemetryReport
from edge_agent.runner.control import Beat, Drained, Window
from edge_agent.runner.journal import UNSPOOLED, Journal

if TYPE_CHECKING:
    from tests.edge_agent.surroundings.toy_runner import BEAT_S, ToyRunner
else:
    from toy_runner import BEAT_S, ToyRunner  # a program has its own folder on the path, and nothing else of the tests

WINDOW_S = 0.015
MOST_REQUESTS = 5


class BusyRunner(ToyRunner):
    def __init__(self, control: socket.socket, diary: Path, windows: int, dies_after: list[int]) -> None:
        super().__init__(control)
        self.lines = len(diary.read_text().splitlines()) if diary.exists() else 0
        self.diary = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.windows, self.dies_after = windows, dies_after
        manifest, folder = self.spec.manifest, self.spec.journal_dir
        assert folder is not None, "the agent keeps journals"
        self.about = {
            "model": manifest.model,
            "version": manifest.version,
            "variant_id": manifest.variant_id,
            "deployment_id": self.spec.deployment_id,
        }
        self.journal = Journal(folder, self.about)

    def run(self) -> None:
        self.selector.register(self.control, selectors.EVENT_READ, "control")
        beat_at = 0.0
        while not self.draining:
            for key, _ in self.selector.select(WINDOW_S):
                if key.data == "control":
                    self.told()
                else:
                    self.answer(key.fd)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + BEAT_S
                self.say(Beat(inferences=self.inferences))
            if self.listening and self.lines < self.windows:
                self.spend_a_minute()
        self.say(Drained())

    def spend_a_minute(self) -> None:
        requests = random.randint(1, MOST_REQUESTS)
        for _ in range(requests):
            self.journal.observed(samples=1, queue_ms=0.1, preprocess_ms=0.1, invoke_ms=1.0)
        os.write(self.diary, f"{requests}\n".encode())
        self.lines += 1
        self.inferences += requests
        if self.lines in self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        sketch = LatencySketch(offset=0, bins=(requests,), min_ms=1.0, max_ms=1.0, sum_ms=float(requests))
        report = TelemetryReport(
            spool_id=UNSPOOLED,
            sequence=0,
            **self.about,
            window_start=time.time(),
            window_s=WINDOW_S,
            requests=requests,
            inferences=requests,
            invoke=sketch,
        )
        self.say(Window(report=report, journal=self.journal.cut()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--diary", type=Path, required=True)
    parser.add_argument("--windows", type=int, required=True)
    parser.add_argument("--dies-after", type=int, nargs="*", default=[])
    parser.add_argument("--control-fd", type=int, required=True)
    options, _ = parser.parse_known_args()
    runner = BusyRunner(socket.socket(fileno=options.control_fd), options.diary, options.windows, options.dies_after)
    if runner.prove():
        runner.run()
