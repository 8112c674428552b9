"""What the routes stand on, put together by the process and handed to them by FastAPI."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.database.connect import Database
from server.fleet.enrol import Addresses
from server.fleet.manifests import ManifestCache
from server.settings import RegistrySettings
from server.storage import ObjectStore
from server.trust.folder import TrustFolder


@dataclass(frozen=True, slots=True)
class Ports:
    """Databases, objects, the manifests among them, settings and the clock."""

    settings: RegistrySettings
    catalogue: Database
    telemetry: Database
    objects: ObjectStore
    manifests: ManifestCache
    addresses: Addresses
    trust: TrustFolder
    clock: Callable[[], float]


def ports_of(request: Request) -> Ports:
    """The ports of the app that got this request."""
    ports: Ports = request.app.state.ports
    return ports


PortsOf = Annotated[Ports, Depends(ports_of)]
