"""Who this device is, from its enrolment on. And the lock that keeps a second agent out. Files only, no network."""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING, Annotated

from pydantic import StringConstraints, ValidationError

from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.base import Bytes, Count, Name, Seconds, Wire
from edge_agent.storage.durable import replace_file

if TYPE_CHECKING:
    from edge_agent.layout import Layout


class NotEnrolledError(EdgeAgentError):
    """No identity here, or none could be gotten."""

    code = "not_enrolled"


class OtherRegistryError(EdgeAgentError):
    """The data directory belongs to a device of another registry."""

    code = "other_registry"


class AlreadyRunningError(EdgeAgentError):
    """Another agent holds this data directory."""

    code = "already_running"


class Credential(Wire):
    """A key with its certificate: a file in the folder `tls`. Times are seconds since 1970."""

    file: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,40}\.pem$")]
    serial: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,40}$")]
    expires_at: Seconds
    renew_at: Seconds


class Identity(Wire):
    """A device's name, its secrets and its addresses."""

    device_id: Name
    profile: Name
    registry_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$", max_length=512)]
    mqtt_url: Annotated[str, StringConstraints(pattern=r"^mqtts?://[^\s/]+$", max_length=512)]
    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,128}$")]
    epoch: Count = 0
    storage_bytes: Bytes | None = None  # the profile's budget, where the registry tells it
    credential: Credential | None = None  # None: neither API nor broker speaks TLS
    successor: Credential | None = None  # issued, and not yet seen by the registry

    @property
    def authorization(self) -> str:
        """The value of the Authorization header."""
        return f"Device {self.device_id}:{self.key}"


def normalized(registry_url: str) -> str:
    """A registry's address in one spelling."""
    url = registry_url.strip().rstrip("/")
    return url if "://" in url else f"https://{url}"


def load(layout: Layout) -> Identity | None:
    """The identity that is kept here.

    Raises:
        NotEnrolledError: there is one, but it can't be read.
    """
    try:
        return Identity.model_validate_json(layout.identity.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise NotEnrolledError(
            f"{layout.identity} can't be read as an identity: restore it, or enroll anew in an empty folder"
        ) from exc


def save(layout: Layout, identity: Identity) -> None:
    """Keep an identity; nobody else may read its key."""
    layout.root.mkdir(parents=True, exist_ok=True)
    replace_file(layout.identity, identity.model_dump_json(indent=2).encode(), mode=0o600)


def drop_other_credentials(layout: Layout, identity: Identity) -> None:
    """Remove keys that this identity does not name."""
    used = {one.file for one in (identity.credential, identity.successor) if one is not None}
    for path in layout.tls_dir.glob("*.pem"):
        if path.name not in used:
            path.unlink(missing_ok=True)


def require_same(identity: Identity, layout: Layout, *, registry_url: str, device_id: str | None) -> None:
    """Pass if the folder belongs to this registry and device.

    Raises:
        OtherRegistryError: it does not.
    """
    if identity.registry_url != registry_url:
        raise OtherRegistryError(
            f"{layout.root} belongs to device {identity.device_id} of {identity.registry_url}, not of {registry_url}: "
            "give another --data-dir, or --again to give that identity up"
        )
    if device_id is not None and device_id != identity.device_id:
        raise OtherRegistryError(
            f"{layout.root} belongs to device {identity.device_id}, not to {device_id}: "
            "leave --device-id out, or give another --data-dir"
        )


def lock(layout: Layout) -> IO[str]:
    """Hold the data directory; the lock goes with the process.

    Raises:
        AlreadyRunningError: another agent runs here.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    file = layout.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.seek(0)
        holder = file.read(32).strip() or "unknown"
        file.close()
        raise AlreadyRunningError(
            f"an agent (process {holder}) already runs in {layout.root}: stop it, or give another --data-dir"
        ) from exc
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
