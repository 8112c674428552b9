"""Whether the databases, S3 and the broker answer, each really asked, side by side; and which processes work."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from server.api.ports import Ports
from server.database.tables import registry, reports
from server.errors import RegistryError
from server.heartbeats import Process, lacking, last_heard
from server.schemas.common import Health
from server.stack.probes import mqtt_url_answers
from server.trust.names import Role
from server.trust.tls import broker_context

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S: Final = 2.0
OK: Final = "ok"
_NOBODY: Final = "0" * 64


class HealthCheck:
    """Asks at most one question of each part at a time, so that a part which hangs holds one thread and no more."""

    def __init__(self, ports: Ports, *, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._checks: dict[str, Callable[[], str]] = {
            "database": lambda: _database(ports),
            "objects": lambda: _objects(ports),
            "broker": lambda: _broker(ports),
            **{process: partial(_process, ports, process) for process in Process},
        }
        self._executor = ThreadPoolExecutor(max_workers=len(self._checks), thread_name_prefix="health")
        self._under_way: dict[str, Future[str]] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ask no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def ask(self) -> Health:
        """Ask all parts."""
        with self._lock:
            for name, check in self._checks.items():
                if name not in self._under_way or self._under_way[name].done():
                    self._under_way[name] = self._executor.submit(check)
            futures = dict(self._under_way)
        answers = {name: self._answer(future) for name, future in futures.items()}
        status = OK if all(text == OK for text in answers.values()) else "degraded"
        processes = {process.value: answers.pop(process) for process in Process}
        return Health(status=status, version=_version(), processes=processes, **answers)

    def _answer(self, future: Future[str]) -> str:
        try:
            return future.result(timeout=self._limit_s)
        except FutureTimeoutError:
            return f"does not answer within {self._limit_s:g} s"
        except RegistryError as exc:
            return str(exc)


def _database(ports: Ports) -> str:
    with ports.catalogue.read() as connection:
        found = connection.execute(sa.select(registry.c.registry_id)).first()
    with ports.telemetry.read() as connection:
        connection.execute(sa.select(reports.c.sequence).limit(1))
    return OK if found else "the database is empty: start the registry with `edge-registry up`"


def _objects(ports: Ports) -> str:
    ports.objects.exists(_NOBODY)
    return OK


def _broker(ports: Ports) -> str:
    url = ports.settings.mqtt_url
    if not url:
        return "no MQTT URL is set: give mqtt_url, or run under `edge-registry up`"
    return (
        OK
        if mqtt_url_answers(url, broker_context(ports.settings, Role.API))
        else f"the MQTT broker at {url} does not answer"
    )


def _process(ports: Ports, process: Process) -> str:
    return lacking(process, last_heard(ports.catalogue, process), now=ports.clock()) or OK


def _version() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:
        return "unknown"
