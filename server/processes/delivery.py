"""The delivery process: `python -m server.processes.delivery`. Settings come from the environment."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from server.database.connect import Database
from server.delivery.answers import Answers
from server.delivery.blocks import BlockCache
from server.delivery.schedule import DeliveryRules, Schedule
from server.delivery.sender import BlockSender
from server.delivery.service import SHARE, Delivery, connect
from server.errors import RegistryError, SettingsError
from server.heartbeats import Heart, Process
from server.inquiries.inquirer import Inquirer
from server.mqtt.sharing import share_name
from server.settings import RegistrySettings, load_settings
from server.storage import S3ObjectStore
from server.trust.names import Role
from server.trust.tls import broker_context

if TYPE_CHECKING:
    from types import FrameType


def serve(settings: RegistrySettings, stop: threading.Event) -> None:
    """Answer until `stop` is set.

    Raises:
        RegistryError: the settings do not say where the broker or S3 is.
    """
    if settings.mqtt_url is None:
        raise SettingsError("No MQTT broker is set: give mqtt_url, or run under `up`.")
    database = Database(settings.database_url)
    store = S3ObjectStore.from_settings(settings)
    name = f"delivery-{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
    connection, asks = connect(
        settings.mqtt_url, name, share=share_name(settings, SHARE), tls=broker_context(settings, Role.DELIVERY)
    )
    schedule = Schedule(DeliveryRules(rate_bytes_s=settings.block_rate_bytes_s))
    sender = BlockSender(schedule, BlockCache(store), connection)
    answers = Answers(database, store, sender, presign_expiry_s=settings.presign_expiry_s, clock=time.monotonic)
    inquirer = Inquirer(database, connection, clock=time.time)
    try:
        with Heart(database, Process.DELIVERY) as heart:
            Delivery(connection, asks, answers, sender, inquirer).run(stop, pulse=heart.pulse)
    finally:
        store.close()
        database.close()


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()

    def stop_soon(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, stop_soon)
    signal.signal(signal.SIGINT, stop_soon)
    try:
        serve(load_settings(), stop)
    except RegistryError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
