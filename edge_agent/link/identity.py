"""Who this device is: written once when it joins, kept for ever. And the lock that keeps a second agent out."""

from __future__ import annotations

import fcntl
import os
from typing import IO, TYPE_CHECKING, Annotated

from pydantic import StringConstraints, ValidationError

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.link.registry_http import RegistryRefusedError, request_json
from edge_agent.protocol.base import Bytes, Count, Name, Wire
from edge_agent.storage.durable import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.layout import Layout


class NotJoinedError(EdgeAgentError):
    """No identity here, and no token to get one."""

    code = "not_joined"


class OtherRegistryError(EdgeAgentError):
    """The data directory belongs to a device of another registry."""

    code = "other_registry"


class AlreadyRunningError(EdgeAgentError):
    """Another agent holds this data directory."""

    code = "already_running"


class Identity(Wire):
    """A device's name, its secret and its addresses."""

    device_id: Name
    profile: Name
    registry_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$", max_length=512)]
    mqtt_url: Annotated[str, StringConstraints(pattern=r"^mqtts?://[^\s/]+$", max_length=512)]
    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,128}$")]
    epoch: Count = 0
    storage_bytes: Bytes | None = None  # the profile's budget, where the registry tells it

    @property
    def authorization(self) -> str:
        """The value of the Authorization header."""
        return f"Device {self.device_id}:{self.key}"


def normalized(registry_url: str) -> str:
    """A registry's address in one spelling."""
    url = registry_url.strip().rstrip("/")
    return url if "://" in url else f"http://{url}"


def load(layout: Layout) -> Identity | None:
    """The identity that is kept here.

    Raises:
        NotJoinedError: there is one, but it can't be read.
    """
    try:
        return Identity.model_validate_json(layout.identity.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise NotJoinedError(
            f"{layout.identity} can't be read as an identity: restore it, or join anew in an empty folder"
        ) from exc


def save(layout: Layout, identity: Identity) -> None:
    """Keep an identity; nobody else may read its key."""
    layout.root.mkdir(parents=True, exist_ok=True)
    replace_file(layout.identity, identity.model_dump_json(indent=2).encode(), mode=0o600)


def ensure(
    layout: Layout,
    *,
    registry_url: str,
    token: str | None,
    device_id: str | None,
    profile: str | None,
    labels: Mapping[str, str],
    runtimes: Mapping[str, str],
    facts: Mapping[str, str],
) -> Identity:
    """The identity of this folder; joins when there is none, and saves it before anything else.

    Raises:
        OtherRegistryError: the folder belongs to another registry or another device.
        NotJoinedError: there is no identity and no token, or the registry refused the token.
        RegistryUnreachableError: nobody answers at the address.
    """
    registry_url = normalized(registry_url)
    identity = load(layout)
    if identity is not None:
        _same(identity, layout, registry_url=registry_url, device_id=device_id)
        return identity
    if token is None:
        raise NotJoinedError("this device has not joined a registry: give --token once (edge-registry token create)")
    document = {
        "token": token,
        "device_id": device_id,
        "profile": profile,
        "labels": dict(labels),
        "agent_version": __version__,
        "runtimes": dict(runtimes),
        "facts": dict(facts),
    }
    try:
        answer = request_json("POST", f"{registry_url}/v1/join", document=document)
        identity = Identity.model_validate({**answer, "registry_url": registry_url})
    except RegistryRefusedError as exc:
        raise NotJoinedError(f"the registry did not let this device join: {exc}") from exc
    except ValidationError as exc:
        where = ".".join(str(part) for part in exc.errors()[0]["loc"])
        raise NotJoinedError(f"the registry's answer to joining has no usable {where}") from exc
    save(layout, identity)
    return identity


def _same(identity: Identity, layout: Layout, *, registry_url: str, device_id: str | None) -> None:
    if identity.registry_url != registry_url:
        raise OtherRegistryError(
            f"{layout.root} belongs to device {identity.device_id} of {identity.registry_url}, not of {registry_url}: "
            "start it with that address, or give another --data-dir"
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
