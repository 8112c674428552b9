"""Which of the registry's processes work: each says so every few seconds, for as long as its main loop goes round.

A process that is dead says nothing, and neither does one whose loop hangs: the loop itself has to ask for each beat.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

import sqlalchemy as sa

from server.database.tables import heartbeats
from server.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from server.database.connect import Database

log = logging.getLogger(__name__)

EVERY_S: Final = 10.0
LATE_S: Final = 40.0
LOOK_S: Final = 0.5
FORGOTTEN_S: Final = 86_400.0  # what a process that was killed left behind


class Process(StrEnum):
    """Kinds of processes of which a registry needs at least one; `heartbeats.process`. The API answers for itself."""

    CONTROLLER = "controller"
    DELIVERY = "delivery"
    INGEST = "ingest"
    WORKER = "worker"


class Heart:
    """The heartbeat of this process: the main loop calls `pulse` in each of its rounds, and a thread writes it down."""

    def __init__(
        self,
        database: Database,
        process: Process,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._row = {
            "process": process.value,
            "instance": f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(4)}",
        }
        self._every_s = every_s
        self._clock = clock
        self._pulsed = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="heartbeat", daemon=True)

    def pulse(self) -> None:
        """The loop goes round; costs nothing."""
        self._pulsed.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nobody waits for a process that ended by itself."""
        self._done.set()
        self._thread.join()
        try:
            with self._database.write() as connection:
                connection.execute(sa.delete(heartbeats).filter_by(**self._row))
        except DatabaseUnavailableError as exc:
            log.warning("the last heartbeat stays for a while: %s", exc)

    def _keep(self) -> None:
        pause_s = LOOK_S
        while not self._done.wait(pause_s):
            pause_s = LOOK_S
            if not self._pulsed.is_set():
                continue
            try:
                self._beat()
            except DatabaseUnavailableError as exc:
                log.warning("no heartbeat: %s", exc)
                continue
            self._pulsed.clear()
            pause_s = self._every_s

    def _beat(self) -> None:
        now = self._clock()
        with self._database.write() as connection:
            written = connection.execute(sa.update(heartbeats).filter_by(**self._row).values(beat_at=now))
            if written.rowcount == 0:
                connection.execute(sa.delete(heartbeats).where(heartbeats.c.beat_at < now - FORGOTTEN_S))
                connection.execute(sa.insert(heartbeats).values(**self._row, beat_at=now))


def last_heard(database: Database, process: Process) -> float | None:
    """When a process of this kind last said that it works; None: never, or all have ended by themselves."""
    query = sa.select(sa.func.max(heartbeats.c.beat_at)).where(heartbeats.c.process == process.value)
    with database.read() as connection:
        found = connection.execute(query).scalar()
    return None if found is None else float(found)


def lacking(process: Process, heard_at: float | None, *, now: float) -> str:
    """One sentence about a process of which none works; empty where one does."""
    if heard_at is None:
        return f"no {process} runs: start one, or see its log"
    if abs(now - heard_at) <= LATE_S:
        return ""
    return f"no {process} has worked for {abs(now - heard_at):.0f} s: is it running? See its log"
