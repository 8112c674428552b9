"""What the routes stand on, put together by the process and handed to them by FastAPI."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request

from server.api.admission import asker_of
from server.audit.door import AuditedDatabase
from server.audit.trail import Asker
from server.database.connect import Database
from server.fleet.join import Addresses
from server.fleet.manifests import ManifestCache
from server.settings import RegistrySettings
from server.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class Ports:
    """Databases, objects, the manifests among them, settings and the clock."""

    settings: RegistrySettings
    catalogue: Database
    telemetry: Database
    objects: ObjectStore
    manifests: ManifestCache
    addresses: Addresses
    clock: Callable[[], float]


def ports_of(request: Request) -> Ports:
    """The ports for this request: what it changes in the catalogue is recorded as its asker's."""
    ports: Ports = request.app.state.ports
    return replace(ports, catalogue=AuditedDatabase(ports.catalogue, asker_of(request), ports.clock))


PortsOf = Annotated[Ports, Depends(ports_of)]
AskerOf = Annotated[Asker, Depends(asker_of)]
