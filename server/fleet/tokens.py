"""One-time tokens: whoever holds one may add one device, within what the token allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.database.tables import devices, join_tokens
from server.errors import InvalidError, NotFoundError
from server.fleet.devices import unknown_device
from server.fleet.secrets import hash_of, id_of, new_token
from server.fleet.wellknown import require_profile
from server.schemas.fleet import Token, TokenView

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.fleet import TokenRequest


def create_token(database: Database, request: TokenRequest, *, root_sha256: str, now: float) -> Token:
    """Make a token; it is shown this once.

    Args:
        database: the catalogue.
        request: what the token allows.
        root_sha256: the fingerprint of the registry's root, which goes into the token.
        now: seconds since 1970.

    Raises:
        InvalidError: one device's place for several.
        NotFoundError: it names a profile that nobody registered and that is not well known.
    """
    if request.replaces is not None and request.max_uses > 1:
        raise InvalidError(f"One device takes the place of {request.replaces}: let the token be used once.")
    token = new_token(root_sha256)
    digest = hash_of(token)
    row = {
        "token_sha256": digest,
        "token_id": id_of(digest),
        "profile": request.profile,
        "labels": request.labels,
        "created_at": now,
        "expires_at": now + request.valid_s,
        "replaces": request.replaces,
        "max_uses": request.max_uses,
        "uses_per_hour": request.uses_per_hour,
        "needs_approval": request.needs_approval,
    }
    with database.write() as connection:
        if request.profile is not None:
            require_profile(connection, request.profile, now=now)
        if request.replaces is not None:
            row["profile"] = request.profile or _profile_of(connection, request.replaces)
        connection.execute(sa.insert(join_tokens).values(row))
    return Token(token_id=id_of(digest), token=token, expires_at=now + request.valid_s)


def list_tokens(database: Database) -> list[TokenView]:
    """All tokens, newest first, without their secrets."""
    query = sa.select(join_tokens).order_by(join_tokens.c.created_at.desc())
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        TokenView(
            token_id=row.token_id,
            profile=row.profile,
            labels=row.labels,
            created_at=row.created_at,
            expires_at=row.expires_at,
            used_at=row.used_at,
            device_id=row.device_id,
            replaces=row.replaces,
            max_uses=row.max_uses,
            uses=row.uses,
            uses_per_hour=row.uses_per_hour,
            needs_approval=row.needs_approval,
        )
        for row in rows
    ]


def revoke_token(database: Database, token_id: str) -> None:
    """Make a token worthless; a device that joined with it stays.

    Raises:
        NotFoundError: there is none with this id.
    """
    with database.write() as connection:
        found = connection.execute(sa.delete(join_tokens).where(join_tokens.c.token_id == token_id))
    if found.rowcount == 0:
        raise NotFoundError(
            f"There is no token {token_id[:64]}: `edge-registry token list` shows those that are there."
        )


def _profile_of(connection: sa.Connection, device_id: str) -> str:
    there = [devices.c.device_id == device_id, devices.c.removed_at.is_(None)]
    profile = connection.execute(sa.select(devices.c.profile).where(*there)).scalar()
    if profile is None:
        raise unknown_device(connection, device_id)
    return str(profile)
