"""An agent as a process, with its folder and its port."""

from __future__ import annotations

import http.client
import http.server
import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from edge_agent.layout import Layout
from edge_agent.link import identity as identities
from tests.edge_agent.surroundings.waiting import free_port, until

TOY_RUNNER = Path(__file__).parent / "toy_runner.py"


TOY_FRONT = Path(__file__).parent / "toy_front.py"


DEVICE, KEY = "dev-1", "ab" * 32


@dataclass
class Device:
    """An agent's process, its folder and its port."""

    root: Path
    mqtt_url: str
    registry_url: str = "http://127.0.0.1:9"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    flags: list[str] = field(default_factory=list)
    prefix: list[str] = field(default_factory=list)  # a program that runs it

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def join(self) -> None:
        """Give it an identity, by the code's own function, without a registry."""
        identity = identities.Identity(
            device_id=DEVICE, profile="bench", registry_url=self.registry_url, mqtt_url=self.mqtt_url, key=KEY
        )
        identities.save(self.layout, identity)

    def command(self, *flags: str) -> list[str]:
        settings = {
            "runner_command": f"{sys.executable} {TOY_RUNNER}",
            "front_command": f"{sys.executable} {TOY_FRONT}",
            "first_pass_wait_s": "0.2",
            "quiet_s": "0.2",
            "answer_s": "1.0",
            "reconnect_first_s": "0.1",
            "reconnect_cap_s": "0.5",
            "retry_first_s": "0.3",
            "restart_first_s": "0.05",
            "will_delay_s": "0",
            "ack_wait_s": "2.0",
        }
        common = ["start", "--data-dir", str(self.root)]
        listen = ["--listen", f"127.0.0.1:{self.port}"]
        sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        program = [*self.prefix, sys.executable, "-m", "edge_agent.cli"]
        return [*program, *common, *listen, *sets, *self.flags, *flags]

    def start(self, *flags: str) -> None:
        with (self.root.parent / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(*flags), stderr=log)

    @property
    def log(self) -> str:
        return (self.root.parent / "agent.log").read_text()

    def kill(self) -> None:
        """As a power cut: no goodbye."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def status(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "edge_agent.cli", "status", "--json", "--data-dir", str(self.root)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return cast("dict[str, Any]", json.loads(result.stdout))

    def infer(self, model: str = "net") -> dict[str, Any] | None:
        """Ask through the shared port; None when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body=b"{}")
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return cast("dict[str, Any]", answer) if response.status == 200 else None

    def expect_answer(self, version: str, *, model: str = "net", timeout_s: float = 20.0) -> None:
        def answered() -> bool:
            answer = self.infer(model)
            return answer is not None and answer["version"] == version

        until(answered, timeout_s=timeout_s, what=f"an answer of {model} {version}")
