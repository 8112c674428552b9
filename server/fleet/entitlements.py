"""What one device may fetch over HTTPS: its desired state, and the manifests and objects named there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from edge_agent.protocol.messages import Desired
from server.database.tables import desired, devices
from server.errors import ObjectNotFoundError, UnauthorizedError
from server.fleet.join import registry_epoch
from server.fleet.manifests import object_among
from server.fleet.secrets import is_secret_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import ObjectDescriptor
    from server.database.connect import Database
    from server.fleet.manifests import KnownManifest, ManifestCache


def authenticate(database: Database, authorization: str | None) -> str:
    """The device that proves itself with `Device ID:KEY`.

    Raises:
        UnauthorizedError: no such header, an unknown or removed device, or a wrong key: the answer doesn't say which.
    """
    scheme, _, credentials = (authorization or "").partition(" ")
    device_id, colon, key = credentials.strip().partition(":")
    if scheme.lower() != "device" or not colon:
        raise UnauthorizedError("A device proves itself with the header `Authorization: Device ID:KEY`.")
    query = sa.select(devices.c.key_sha256).where(devices.c.device_id == device_id, devices.c.removed_at.is_(None))
    with database.read() as connection:
        expected = connection.execute(query).scalar()
    if expected is None or not is_secret_of(key, expected):
        raise UnauthorizedError("The device is unknown or removed, or its key is wrong: join again with a new token.")
    return device_id


def desired_of(database: Database, device_id: str) -> Desired:
    """What the device shall run; nothing yet: generation 0 without deployments."""
    with database.read() as connection:
        document = connection.execute(sa.select(desired.c.document).where(desired.c.device_id == device_id)).scalar()
        if document is None:
            return Desired(epoch=registry_epoch(connection), generation=0)
    return Desired.model_validate(document)


def manifest_of(database: Database, manifests: ManifestCache, device_id: str, sha256: str) -> bytes:
    """A manifest, verbatim: its sha256 is what desired named.

    Raises:
        ObjectNotFoundError: the device's desired state names no such manifest.
    """
    if sha256 not in _manifests(database, device_id):
        raise not_yours(sha256)
    return manifests.read(sha256).text


def require_entitled(database: Database, manifests: ManifestCache, device_id: str, sha256: str) -> None:
    """Pass if a device may fetch an object.

    Raises:
        ObjectNotFoundError: the device's desired state names no such object.
    """
    object_of(desired_of(database, device_id), sha256, manifests.read)


def object_of(wanted: Desired, sha256: str, read: Callable[[str], KnownManifest]) -> ObjectDescriptor:
    """How an object travels that a desired state names: a delta's, or a manifest's.

    Raises:
        ObjectNotFoundError: it names no such object.
        StorageUnavailableError, StorageRefusedError: a manifest could not be read, and no other names the object.
    """
    deltas = (delta.object for entry in wanted.entries for delta in entry.deltas)
    found = next((one for one in deltas if one.sha256 == sha256), None)
    if found is None:
        found = object_among({entry.manifest_sha256 for entry in wanted.entries}, sha256, read)
    if found is None:
        raise not_yours(sha256)
    return found


def _manifests(database: Database, device_id: str) -> set[str]:
    return {entry.manifest_sha256 for entry in desired_of(database, device_id).entries}


def not_yours(sha256: str | None) -> ObjectNotFoundError:
    """What is asked for is none of this device's."""
    return ObjectNotFoundError(f"The desired state of this device names no object {sha256}.")
