"""The API process: `python -m server.processes.api`. Opens the ports, serves until SIGTERM, closes them."""

import argparse
import logging
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

import uvicorn

from server.api.app import create_app
from server.api.peer import tls_options
from server.api.ports import Ports
from server.api.upload import UPLOADS
from server.database.connect import Database
from server.database.migrate import upgrade
from server.errors import RegistryError, SettingsError
from server.fleet.certificates import tell_broker
from server.fleet.enrol import Addresses
from server.fleet.manifests import ManifestCache
from server.settings import RegistrySettings, load_settings
from server.storage import S3ObjectStore
from server.trust.folder import TrustFolder

STALE_UPLOAD_S: Final = 6 * 3600.0
# `up` gives its children 5 s between SIGTERM and SIGKILL.
SHUTDOWN_S: Final = 3


def main(arguments: list[str] | None = None) -> int:
    """Serve what the settings name; 0 after a clean stop."""
    parser = argparse.ArgumentParser(prog="server.processes.api", description="The HTTP API of the registry.")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--config", type=Path)
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return serve(load_settings(parsed.data_dir, parsed.config))
    except RegistryError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1


def serve(settings: RegistrySettings) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        RegistryError: the settings do not suffice, or the database can't be used.
    """
    if settings.api_port is None:
        raise SettingsError("No port is set for the API: give SHOAL_API_PORT, or run under `edge-registry up`.")
    bind_address = settings.resolved_bind_address()
    upgrade(settings)  # `up` did it already; a process started alone must not meet an old database either
    remove_stale_uploads(settings.data_dir / UPLOADS, now=time.time())
    catalogue, telemetry = Database(settings.database_url), Database(settings.telemetry_url)
    objects = S3ObjectStore.from_settings(settings)
    trust = TrustFolder(settings.trust_dir)
    if settings.api_tls and not trust.paths.server.exists():
        raise SettingsError(
            f"There is no certificate for the API in {settings.trust_dir}: run under `edge-registry up`."
        )
    tls = tls_options(trust.paths) if settings.api_tls else {}
    if trust.exists:
        tell_broker(catalogue, trust, now=time.time())  # what was taken back just before it was killed
    ports = Ports(
        settings=settings,
        catalogue=catalogue,
        telemetry=telemetry,
        objects=objects,
        manifests=ManifestCache(objects),
        addresses=addresses_of(settings, settings.api_port),
        trust=trust,
        clock=time.time,
    )
    config = uvicorn.Config(
        create_app(ports),
        host=bind_address,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        **tls,
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal once more after its clean stop, for whoever was there before: then it is uvicorn again.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    try:
        server.run()
    finally:
        objects.close()
        catalogue.close()
        telemetry.close()
    return 0 if server.started else 1


def addresses_of(settings: RegistrySettings, api_port: int) -> Addresses:
    """What a device that joins is told."""
    host = f"[{settings.host}]" if ":" in settings.host and not settings.host.startswith("[") else settings.host
    scheme = "https" if settings.api_tls else "http"
    return Addresses(registry_url=f"{scheme}://{host}:{api_port}", mqtt_url=settings.mqtt_url or "")


def remove_stale_uploads(folder: Path, *, now: float) -> None:
    """What uploads left behind when the process was killed; those under way elsewhere are younger."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if now - path.stat().st_mtime > STALE_UPLOAD_S:
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
