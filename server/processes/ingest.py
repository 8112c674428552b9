"""The ingest process: `python -m server.processes.ingest [--name NAME]`. Settings come from the environment.

Each of several ingest processes needs a name of its own, the same after every restart: it names the broker's session,
and two of one name would throw each other out for ever. By default it follows from the machine and the data folder.
"""

import argparse
import hashlib
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from server.database.connect import Database
from server.errors import RegistryError, SettingsError
from server.heartbeats import Heart, Process
from server.ingest.service import SHARE, BatchLimits, Ingest
from server.ingest.store import IngestStore
from server.mqtt.sharing import share_name
from server.retention.keeper import keep_sweeping
from server.retention.merging import merge_reports
from server.retention.requests import latest_request
from server.retention.sweep import sweep_reports
from server.schemas.retention import Swept
from server.settings import RegistrySettings, load_settings
from server.trust.folder import TrustFolder
from server.trust.names import Role
from server.trust.tls import broker_context

SWEEP_END_S: Final = 2.0  # what it has not deleted by then goes the next time


def name_of(machine: str, data_dir: Path) -> str:
    """The name of the one ingest process of a data folder."""
    return f"ingest-{hashlib.sha256(f'{machine}:{data_dir}'.encode()).hexdigest()[:12]}"


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="server.processes.ingest", description="Takes in what devices report.")
    parser.add_argument("--name", help="name of this process among several on one data folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = load_settings()
        if settings.mqtt_url is None:
            raise SettingsError("No MQTT broker is set: give mqtt_url, or run under `up`.")
        if options.name is not None and settings.mqtt_url.startswith("mqtts:"):
            TrustFolder(settings.trust_dir).keep_service(Role.INGEST, options.name, now=time.time())
        catalogue, telemetry = Database(settings.database_url), Database(settings.telemetry_url)
        ingest = Ingest(
            IngestStore(catalogue, telemetry),
            mqtt_url=settings.mqtt_url,
            name=options.name or name_of(socket.gethostname(), settings.data_dir),
            limits=BatchLimits(size=settings.ingest_batch_size),
            share=share_name(settings, SHARE),
            tls=broker_context(settings, Role.INGEST, options.name),
        )
        stop = threading.Event()

        def stop_soon(_number: int, _frame: FrameType | None) -> None:
            stop.set()
            ingest.wake()

        signal.signal(signal.SIGTERM, stop_soon)
        signal.signal(signal.SIGINT, stop_soon)
        sweeping = threading.Thread(
            target=keep_sweeping,
            args=(partial(_sweep, telemetry, settings), stop),
            kwargs={"latest_request": partial(latest_request, catalogue)},
            name="retention",
            daemon=True,
        )
        sweeping.start()
        with Heart(catalogue, Process.INGEST) as heart:
            ingest.run(stop, pulse=heart.pulse)
        sweeping.join(SWEEP_END_S)
    except RegistryError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    catalogue.close()
    telemetry.close()
    return 0


def _sweep(telemetry: Database, settings: RegistrySettings) -> Iterator[Swept]:
    yield sweep_reports(telemetry, settings, now=time.time())
    yield merge_reports(telemetry, settings, now=time.time())


if __name__ == "__main__":
    sys.exit(main())
