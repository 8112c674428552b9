"""A device enrols: one transaction that uses the token, makes the identity and issues its certificate, or nothing.

Asked again with the same key, because the answer was lost on its way, it gives the same device again as long as the
token is valid: whoever has the key has asked before.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.database.tables import certificates, devices, join_tokens, registry
from server.errors import ConflictError, DatabaseUnavailableError, InvalidError, UnauthorizedError
from server.fleet import claims
from server.fleet.certificates import Reason, issue, take_back
from server.fleet.devices import MAX_LABELS
from server.fleet.secrets import hash_of, new_key
from server.fleet.wellknown import require_profile
from server.schemas.fleet import Enrolled, EnrolmentPending
from server.trust.authority import public_key_sha256
from server.trust.requests import public_key_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from server.database.connect import Database
    from server.schemas.fleet import EnrolmentRequest
    from server.trust.authority import Authority

MAX_PREFIX: Final = 54  # a name has 63 characters; a dash and 8 digits are added
_ADVICE: Final = "make a new one with `edge-registry token create`"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a device finds what it needs."""

    registry_url: str
    mqtt_url: str


@dataclass(frozen=True, slots=True)
class Issuing:
    """What enrolling needs besides the database."""

    authority: Authority
    addresses: Addresses
    days: float


def enrol(
    database: Database, request: EnrolmentRequest, issuing: Issuing, *, now: float
) -> Enrolled | EnrolmentPending:
    """Add a device, or put one into another's place.

    Raises:
        UnauthorizedError: the token is unknown, used up or expired, or an operator has said no.
        RateLimitedError: more devices ask with this claim than it lets in.
        BadRequestError: the certificate request can't be taken.
        InvalidError: the token is for another profile or device, or nobody names a profile.
        NotFoundError: the profile is neither registered nor well known.
        ConflictError: the device id is taken.
    """
    # read before the transaction: garbage holds up nobody
    key = public_key_of(request.request, device_id=request.device_id)
    with database.write() as connection:
        token = _token(connection, request.token, now)
        name = _profile_name(request, token)
        profile = require_profile(connection, name, now=now)
        known = _known(connection, token, key)
        if known is None and token.uses >= token.max_uses:
            raise UnauthorizedError(f"This token was used already, by device {token.device_id}: {_ADVICE}.")
        device_id = known or token.replaces or request.device_id or f"{name[:MAX_PREFIX]}-{secrets.token_hex(4)}"
        _require_scope(request, token, device_id)
        if known is None and claims.is_claim(token):
            admitted = claims.admit(connection, token, request, device_id, public_key_sha256(key), now=now)
            if isinstance(admitted, EnrolmentPending):
                return admitted
            device_id = admitted
        secret = new_key()
        if known is None:
            _put_device(connection, device_id, name, token, request, now)
            _count_use(connection, token, device_id, now)
        mine = devices.c.device_id == device_id
        connection.execute(sa.update(devices).where(mine).values(key_sha256=hash_of(secret)))
        certificate = issue(connection, issuing.authority, key, device_id, now=now, days=issuing.days)
        epoch = registry_epoch(connection)
    return Enrolled(
        device_id=device_id,
        profile=name,
        key=secret,
        mqtt_url=issuing.addresses.mqtt_url,
        registry_url=issuing.addresses.registry_url,
        epoch=epoch,
        storage_bytes=profile.storage_bytes,
        ram_bytes=profile.ram_bytes,
        **certificate.model_dump(),
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


def _token(connection: sa.Connection, token: str, now: float) -> sa.Row[Any]:
    row = connection.execute(sa.select(join_tokens).where(join_tokens.c.token_sha256 == hash_of(token))).first()
    if row is None:
        raise UnauthorizedError(f"This token is unknown or was revoked: {_ADVICE}.")
    if row.expires_at <= now:
        raise UnauthorizedError(f"This token has expired: {_ADVICE}.")
    return row


def _known(connection: sa.Connection, token: sa.Row[Any], key: ec.EllipticCurvePublicKey) -> str | None:
    """The device that this very key has enrolled with this token before.

    Raises:
        ConflictError: the key is another's.
    """
    query = (
        sa.select(certificates.c.device_id, certificates.c.revoked_at, devices.c.facts)
        .join(devices, devices.c.device_id == certificates.c.device_id)
        .where(certificates.c.public_key_sha256 == public_key_sha256(key))
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    if row.revoked_at is None and row.facts.get("token_id") == token.token_id:
        return str(row.device_id)
    raise ConflictError("This key has a certificate already, of another enrolment: make a new key.")


def _profile_name(request: EnrolmentRequest, token: sa.Row[Any]) -> str:
    if token.profile is not None and request.profile is not None and token.profile != request.profile:
        raise InvalidError(
            f"This token is for devices of profile {token.profile}, but the device says {request.profile}: "
            "enrol with the token's profile, or make a token for the other."
        )
    name = token.profile or request.profile
    if name is None:
        raise InvalidError("Neither the token nor the device names a profile: enrol with `--profile NAME`.")
    return str(name)


def _require_scope(request: EnrolmentRequest, token: sa.Row[Any], device_id: str) -> None:
    if request.device_id is not None and request.device_id != device_id:
        raise InvalidError(
            f"This token is for device {device_id}, but the device says {request.device_id}: leave its id out."
        )
    count = len({**request.labels, **token.labels})
    if count > MAX_LABELS:
        raise InvalidError(f"A device has at most {MAX_LABELS} labels, token and device together name {count}.")


def _count_use(connection: sa.Connection, token: sa.Row[Any], device_id: str, now: float) -> None:
    this = join_tokens.c.token_sha256 == token.token_sha256
    connection.execute(
        sa.update(join_tokens).where(this).values(used_at=now, device_id=device_id, uses=join_tokens.c.uses + 1)
    )


def _put_device(
    connection: sa.Connection,
    device_id: str,
    profile: str,
    token: sa.Row[Any],
    request: EnrolmentRequest,
    now: float,
) -> None:
    existing = connection.execute(sa.select(devices).where(devices.c.device_id == device_id)).first()
    labels = {**request.labels, **token.labels}  # what the operator wrote into the token wins
    if existing is not None and token.replaces:
        labels = {**existing.labels, **labels}
    values = {
        "profile": profile,
        "labels": labels,
        "key_sha256": "",
        "facts": {
            **request.facts,
            "agent_version": request.agent_version,
            "runtimes": {str(k): v for k, v in request.runtimes.items()},
            "token_id": token.token_id,
        },
        "joined_at": now,
        "revoked_at": None,
        "removed_at": None,
    }
    if existing is None:
        connection.execute(sa.insert(devices).values(device_id=device_id, **values))
    elif existing.removed_at is not None or token.replaces == device_id:
        take_back(connection, device_id, Reason.REPLACED, now=now)
        connection.execute(sa.update(devices).where(devices.c.device_id == device_id).values(**values))
    else:
        raise ConflictError(
            f"A device {device_id} exists already: choose another id, make a token that replaces it "
            f"(`edge-registry token create --replace {device_id}`), or retire it with `edge-registry device retire`."
        )
