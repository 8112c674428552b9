"""Where the agent keeps what, below its data directory. Paths only: nothing is made or read here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "SHOAL_AGENT_DIR"


def default_data_dir() -> Path:
    """`SHOAL_AGENT_DIR`, else /var/lib/shoal-agent for root, else the user's state directory."""
    if configured := os.environ.get(ENVIRONMENT):
        return Path(configured)
    if os.geteuid() == 0:
        return Path("/var/lib/shoal-agent")
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "shoal-agent"


@dataclass(frozen=True, slots=True)
class Layout:
    """The agent's files.

    `active/<model>.json` is the pointer that in-process models follow: an `ActivePointer`, replaced by rename.
    """

    root: Path

    @property
    def identity(self) -> Path:
        """Device id, registry and broker addresses, key, and which certificate is in use: the owner's alone."""
        return self.root / "identity.json"

    @property
    def tls_dir(self) -> Path:
        """Keys and certificates; nobody else may look in."""
        return self.root / "tls"

    @property
    def root_certificate(self) -> Path:
        """Whom this device trusts."""
        return self.tls_dir / "root.crt"

    @property
    def new_root(self) -> Path:
        """The same, of an enrolment that is not done."""
        return self.tls_dir / "new-root.crt"

    @property
    def new_key(self) -> Path:
        """The key of an enrolment that is not done."""
        return self.tls_dir / "new.key"

    def credential(self, name: str) -> Path:
        """A key with its certificate."""
        return self.tls_dir / name

    @property
    def lock(self) -> Path:
        """Held while an agent runs here."""
        return self.root / "lock"

    @property
    def state_db(self) -> Path:
        """Deployments and the highest desired state that was accepted (SQLite)."""
        return self.root / "state.db"

    @property
    def spool_db(self) -> Path:
        """Telemetry that the registry has not yet committed (SQLite)."""
        return self.root / "spool.db"

    @property
    def log_dir(self) -> Path:
        """What the agent has logged lately: two files that take turns."""
        return self.root / "log"

    @property
    def run_dir(self) -> Path:
        """Sockets; gone after a reboot, made again at start."""
        return self.root / "run"

    @property
    def control_socket(self) -> Path:
        """Where `edge-agent status` asks (Unix stream)."""
        return self.run_dir / "_control.sock"  # no model's name begins so

    @property
    def report_socket(self) -> Path:
        """Where in-process models send their telemetry windows (Unix datagram)."""
        return self.run_dir / "_report.sock"

    @property
    def bytecode_dir(self) -> Path:
        """Compiled modules of the agent's own programs, where they can't lie beside their packages."""
        return self.root / "bytecode"

    @property
    def journal_dir(self) -> Path:
        """What runners have counted and not yet reported; a few files while there is work."""
        return self.run_dir / "counted"

    def model_socket(self, model: str) -> Path:
        """The Unix socket on which a model answers the inference protocol."""
        return self.run_dir / f"{model}.sock"

    def shadow_socket(self, deployment_id: str) -> Path:
        """The Unix socket on which a shadow gets copies of requests; `_` begins no model's name."""
        return self.run_dir / f"_shadow.{deployment_id}.sock"

    def active_pointer(self, model: str) -> Path:
        """The pointer to a model's active variant."""
        return self.root / "active" / f"{model}.json"

    def transfer_dir(self, sha256: str) -> Path:
        """An object that is being fetched: its bytes and the blocks that are there."""
        return self.root / "transfers" / sha256

    def variant_dir(self, manifest_sha256: str) -> Path:
        """An installed variant: `manifest.json`, and its files named by role (`model`, `golden`)."""
        return self.root / "variants" / manifest_sha256
