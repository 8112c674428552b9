"""What `up` starts, as data: a name, a command line, and how it wants to be stopped."""

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server.settings import RegistrySettings

REGISTRY_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Command:
    """One child process."""

    name: str
    """Also the name of its log file."""
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to what the supervisor has."""
    folder: Path | None = None
    """Where it runs; None: where the supervisor does."""
    stop_grace_s: float = REGISTRY_GRACE_S
    """Time between SIGTERM and SIGKILL."""
    death_signal: signal.Signals = signal.SIGKILL
    """What it gets when the supervisor is gone. The registry survives kill -9 by design, so certainty comes first."""


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """The registry's own processes."""

    prepare: tuple[Command, ...] = ()
    """Run one after the other to their end before the others start."""
    serve: tuple[Command, ...] = ()
    """Run for as long as the stack does. One named `api` answers GET /v1/health."""


def registry_processes(settings: RegistrySettings) -> ProcessTable:
    """The table of a real registry."""
    workers = (
        ("worker",) if settings.worker_count == 1 else tuple(f"worker-{n + 1}" for n in range(settings.worker_count))
    )
    return ProcessTable(
        prepare=(
            _module("database-prepare", "server.database.migrate"),
            _module("storage-prepare", "server.storage.prepare"),
        ),
        serve=(
            _module("api", "server.processes.api"),
            _module("controller", "server.processes.controller"),
            _module("delivery", "server.processes.delivery"),
            _module("ingest", "server.processes.ingest"),
            *(_module(name, "server.processes.worker") for name in workers),
        ),
    )


def _module(name: str, module: str) -> Command:
    return Command(name=name, argv=(sys.executable, "-m", module))
