"""The controller process: `python -m server.processes.controller`. Settings come from the environment."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from server.database.connect import Database
from server.errors import RegistryError, SettingsError
from server.heartbeats import Heart, Process, lacking, last_heard
from server.mqtt import BrokerConnection
from server.retention.keeper import keep_sweeping
from server.retention.requests import latest_request
from server.retention.sweep import sweep_decisions, sweep_objects
from server.rollouts.controller import Controller, Pace
from server.rollouts.doorbell import Doorbell
from server.rollouts.hearing import Hearing
from server.rollouts.manifests import ManifestFiles
from server.rollouts.measuring import Measurements
from server.rollouts.reading import Reader
from server.rollouts.writing import Intervals
from server.settings import RegistrySettings, load_settings
from server.storage import S3ObjectStore
from server.webhook.receiver import Receiver
from server.webhook.telling import Teller, keep_telling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from server.schemas.retention import Swept
    from server.storage import ObjectStore

log = logging.getLogger(__name__)

THREAD_END_S: Final = 1.5  # of each of two; `up` kills 5 s after it has asked


def serve(settings: RegistrySettings, stop: threading.Event, *, pace: Pace) -> None:
    """Decide until `stop` is set.

    Raises:
        RegistryError: the settings do not say where the broker or S3 is.
    """
    if settings.mqtt_url is None:
        raise SettingsError("No MQTT broker is set: give mqtt_url, or run under `up`.")
    receiver = _receiver_of(settings)
    holder = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
    database, telemetry = Database(settings.database_url), Database(settings.telemetry_url)
    store = S3ObjectStore.from_settings(settings)
    connection = BrokerConnection(settings.mqtt_url, f"controller-{holder}", (), lambda _: None)
    link = threading.Thread(target=_keep_link, args=(connection, stop), name="mqtt")
    link.start()
    manifests = ManifestFiles(store)
    controller = Controller(
        database,
        reader=Reader(
            manifests.model_file_sha256,
            status_interval_s=settings.presence_interval_s,
            measurements=Measurements(telemetry),
            hearing=Hearing(lambda: connection.is_ready and _ingest_works(database), clock=time.time),
        ),
        manifests=manifests,
        doorbell=Doorbell(connection),
        intervals=Intervals(
            status_interval_s=settings.presence_interval_s, telemetry_window_s=settings.telemetry_interval_s
        ),
        holder=holder,
        pace=pace,
    )
    sweeping = threading.Thread(
        target=keep_sweeping,
        args=(partial(_sweep, database, store, settings), stop),
        kwargs={"latest_request": partial(latest_request, database), "is_due": lambda: controller.leads},
        name="retention",
        daemon=True,  # listing a large store must not hold up the end
    )
    sweeping.start()
    telling = _start_telling(database, receiver, stop, is_due=lambda: controller.leads)
    try:
        with Heart(database, Process.CONTROLLER) as heart:
            controller.run(stop, pulse=heart.pulse)
    finally:
        stop.set()
        connection.wake()
        link.join()
        for thread in (sweeping, *telling):
            thread.join(THREAD_END_S)
        store.close()
        database.close()
        telemetry.close()


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="server.processes.controller", description="Decides what devices shall run.")
    parser.add_argument("--interval-s", type=float, default=0.5, help="pause between two looks")
    parser.add_argument("--lease-s", type=float, default=5.0, help="silence after which another may lead")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole addresses, and a webhook's may hold a token
    stop = threading.Event()

    def stop_soon(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, stop_soon)
    signal.signal(signal.SIGINT, stop_soon)
    try:
        serve(load_settings(), stop, pace=Pace(interval_s=options.interval_s, lease_s=options.lease_s))
    except RegistryError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def _ingest_works(database: Database) -> bool:
    return not lacking(Process.INGEST, last_heard(database, Process.INGEST), now=time.time())


def _receiver_of(settings: RegistrySettings) -> Receiver | None:
    """Whom decisions are told to, if anybody."""
    if settings.webhook_url is None:
        return None
    secret = settings.webhook_secret
    return Receiver(settings.webhook_url.get_secret_value(), secret.get_secret_value() if secret else None)


def _start_telling(
    database: Database, receiver: Receiver | None, stop: threading.Event, *, is_due: Callable[[], bool]
) -> tuple[threading.Thread, ...]:
    if receiver is None:
        return ()
    thread = threading.Thread(
        target=keep_telling,
        args=(Teller(database, receiver), stop),
        kwargs={"is_due": is_due},
        name="webhook",
        daemon=True,  # a receiver that is slow to answer must not hold up the end
    )
    thread.start()
    return (thread,)


def _sweep(database: Database, store: ObjectStore, settings: RegistrySettings) -> Iterator[Swept]:
    yield sweep_decisions(database, settings, now=time.time())
    yield sweep_objects(database, store, settings, now=time.time())


def _keep_link(connection: BrokerConnection, stop: threading.Event) -> None:
    try:
        connection.run(stop)
    except Exception:  # a process without a link would decide in silence: end, and be started again
        log.exception("the MQTT link failed")
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
