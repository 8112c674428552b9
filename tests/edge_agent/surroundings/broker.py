"""A real broker that can be killed."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.edge_agent.surroundings.waiting import free_port, until

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Broker:
    """Mosquitto on a free port; it can be killed and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n")
        command = ["/usr/sbin/mosquitto", "-c", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, what="the broker's start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
