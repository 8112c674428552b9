"""One-time tokens: whoever holds one may add one device, within what the token allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.audit.trail import changed
from server.database.tables import join_tokens
from server.errors import NotFoundError
from server.fleet.secrets import hash_of, id_of, new_token
from server.fleet.wellknown import require_profile
from server.schemas.fleet import Token, TokenView

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.fleet import TokenRequest


def create_token(database: Database, request: TokenRequest, *, now: float) -> Token:
    """Make a token; it is shown this once.

    Raises:
        NotFoundError: it names a profile that nobody registered and that is not well known.
    """
    token = new_token()
    digest = hash_of(token)
    row = {
        "token_sha256": digest,
        "token_id": id_of(digest),
        "profile": request.profile,
        "labels": request.labels,
        "created_at": now,
        "expires_at": now + request.valid_s,
    }
    with database.write() as connection:
        if request.profile is not None:
            require_profile(connection, request.profile, now=now)
        connection.execute(sa.insert(join_tokens).values(row))
        told = {"profile": request.profile, "labels": request.labels, "expires_at": row["expires_at"]}
        changed(connection, "token.create", f"token/{row['token_id']}", after=told)
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
        )
        for row in rows
    ]


def revoke_token(database: Database, token_id: str) -> None:
    """Make a token worthless; a device that joined with it stays.

    Raises:
        NotFoundError: there is none with this id.
    """
    with database.write() as connection:
        meant = join_tokens.c.token_id == token_id
        row = connection.execute(sa.select(join_tokens).where(meant)).first()
        if row is None:
            raise NotFoundError(
                f"There is no token {token_id[:64]}: `edge-registry token list` shows those that are there."
            )
        connection.execute(sa.delete(join_tokens).where(meant))
        told = {"profile": row.profile, "labels": row.labels, "used_by": row.device_id}
        changed(connection, "token.revoke", f"token/{row.token_id}", before=told)
