"""A device joins: one transaction that uses up the token and creates the identity, or changes nothing."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.audit.trail import changed
from server.database.tables import devices, join_tokens, registry
from server.errors import ConflictError, DatabaseUnavailableError, InvalidError, UnauthorizedError
from server.fleet.secrets import hash_of, new_key
from server.fleet.wellknown import require_profile
from server.schemas.fleet import Joined

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.fleet import JoinRequest

MAX_LABELS: Final = 32
MAX_PREFIX: Final = 54  # a name has 63 characters; a dash and 8 digits are added


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a device finds what it needs."""

    registry_url: str
    mqtt_url: str


def join(database: Database, request: JoinRequest, addresses: Addresses, *, now: float) -> Joined:
    """Add a device.

    Raises:
        UnauthorizedError: the token is unknown, used or expired.
        InvalidError: the token is for another profile, or nobody names one.
        NotFoundError: the profile is neither registered nor well known.
        ConflictError: the device id is taken.
    """
    key = new_key()
    with database.write() as connection:
        token = _usable_token(connection, request.token, now)
        name = _profile_name(request, token)
        profile = require_profile(connection, name, now=now)
        device_id = request.device_id or f"{name[:MAX_PREFIX]}-{secrets.token_hex(4)}"
        labels = {**request.labels, **token.labels}  # what the operator wrote into the token wins
        if len(labels) > MAX_LABELS:
            raise InvalidError(
                f"A device has at most {MAX_LABELS} labels, token and device together name {len(labels)}."
            )
        _insert_device(connection, device_id, name, labels, request, key, now)
        connection.execute(
            sa.update(join_tokens)
            .where(join_tokens.c.token_sha256 == token.token_sha256)
            .values(used_at=now, device_id=device_id)
        )
        told = {"profile": name, "labels": labels}
        changed(connection, "device.join", f"device/{device_id}", after=told, who=f"join-token:{token.token_id}")
        epoch = registry_epoch(connection)
    return Joined(
        device_id=device_id,
        profile=name,
        key=key,
        mqtt_url=addresses.mqtt_url,
        registry_url=addresses.registry_url,
        epoch=epoch,
        storage_bytes=profile.storage_bytes,
        ram_bytes=profile.ram_bytes,
    )


def registry_epoch(connection: sa.Connection) -> int:
    """The epoch of this registry.

    Raises:
        DatabaseUnavailableError: the database was never prepared.
    """
    epoch = connection.execute(sa.select(registry.c.epoch)).scalar()
    if epoch is None:
        raise DatabaseUnavailableError("The registry's database has no identity yet: start it with `edge-registry up`.")
    return int(epoch)


def _usable_token(connection: sa.Connection, token: str, now: float) -> sa.Row[Any]:
    query = sa.select(join_tokens).where(join_tokens.c.token_sha256 == hash_of(token))
    row = connection.execute(query).first()
    advice = "make a new one with `edge-registry token create`"
    if row is None:
        raise UnauthorizedError(f"This token is unknown or was revoked: {advice}.")
    if row.used_at is not None:
        raise UnauthorizedError(f"This token was used already, by device {row.device_id}: {advice}.")
    if row.expires_at <= now:
        raise UnauthorizedError(f"This token has expired: {advice}.")
    return row


def _profile_name(request: JoinRequest, token: sa.Row[Any]) -> str:
    if token.profile is not None and request.profile is not None and token.profile != request.profile:
        raise InvalidError(
            f"This token is for devices of profile {token.profile}, but the device says {request.profile}: "
            "join with the token's profile, or make a token for the other."
        )
    name = token.profile or request.profile
    if name is None:
        raise InvalidError("Neither the token nor the device names a profile: join with `--profile NAME`.")
    return str(name)


def _insert_device(
    connection: sa.Connection,
    device_id: str,
    profile: str,
    labels: dict[str, str],
    request: JoinRequest,
    key: str,
    now: float,
) -> None:
    existing = connection.execute(sa.select(devices.c.removed_at).where(devices.c.device_id == device_id)).first()
    values = {
        "profile": profile,
        "labels": labels,
        "key_sha256": hash_of(key),
        "facts": {
            **request.facts,
            "agent_version": request.agent_version,
            "runtimes": {str(k): v for k, v in request.runtimes.items()},
        },
        "joined_at": now,
        "removed_at": None,
    }
    if existing is None:
        connection.execute(sa.insert(devices).values(device_id=device_id, **values))
    elif existing.removed_at is not None:
        connection.execute(sa.update(devices).where(devices.c.device_id == device_id).values(**values))
    else:
        raise _taken(device_id)


def _taken(device_id: str) -> ConflictError:
    return ConflictError(
        f"A device {device_id} exists already: choose another id, or retire it with `edge-registry device retire`."
    )
