"""`up` in a process of its own, with small real processes in the place of the registry's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from server.stack import StackState, stack_state

# A real HTTPS server that answers the health question, and two processes that only run; `child` has a child of its own.
API = """
import http.server, os, pathlib, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v1/health" else 404)
        self.end_headers()
    def log_message(self, *arguments): pass
trust = pathlib.Path(os.environ["SHOAL_DATA_DIR"]) / "trust"
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(trust / "server.crt", trust / "server.key")
server = http.server.HTTPServer((os.environ["SHOAL_BIND_ADDRESS"], int(os.environ["SHOAL_API_PORT"])), Handler)
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(1000)'])"
UP = """
import json, pathlib, sys
from server.settings import load_settings
from server.stack import run_stack
from server.stack.commands import Command, ProcessTable
if len(sys.argv) > 4:  # a search path on which Mosquitto is not
    from server.stack import broker
    broker.SEARCH_PATH = sys.argv[4]
folder, overrides, serve = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
settings = load_settings(folder, overrides=overrides)
table = ProcessTable(
    prepare=(Command("storage-prepare", (sys.executable, "-m", "server.storage.prepare")),),
    serve=tuple(Command(name, (sys.executable, "-c", code)) for name, code in serve.items()),
)
sys.exit(run_stack(settings, table))
"""


class Up:
    """One `up`: start it, read what it says, end it."""

    def __init__(self, data_dir: Path, serve: dict[str, str], overrides: dict[str, object], path: str | None) -> None:
        self.data_dir = data_dir
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                UP,
                str(data_dir),
                json.dumps(overrides),
                json.dumps(serve),
                *([path] if path else []),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def wait_until_up(self) -> StackState:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("edge-registry is up"), f"{line!r} {self.process.communicate()}"
        state = stack_state(self.data_dir)
        assert state is not None
        assert state.is_running
        return state

    def tree(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and what was said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Start `up` on `tmp_path / "data"`, with small processes unless others are given."""
    started: list[Up] = []

    def start(
        serve: dict[str, str] | None = None, *, path: str | None = None, data: str = "data", **overrides: object
    ) -> Up:
        table = {"api": API, "parent": PARENT} if serve is None else serve
        started.append(Up(tmp_path / data, table, overrides, path))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.process.terminate()
        up.process.communicate(timeout=20)
