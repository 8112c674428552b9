"""Claims: a token for a whole batch of devices, as a factory holds one. Each use is a row, so that it can be counted.

How many come in an hour is limited, and an operator may have to say yes to each: the device asks again until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.database.tables import claims, join_tokens
from server.errors import NotFoundError, RateLimitedError, UnauthorizedError
from server.fleet.secrets import ID_LENGTH
from server.schemas.fleet import ClaimView, EnrolmentPending

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.fleet import EnrolmentRequest

HOUR_S: Final = 3600.0
ASK_AGAIN_S: Final = 10.0


def is_claim(token: sa.Row[Any]) -> bool:
    """Whether uses of this token are written down one by one."""
    return bool(token.max_uses > 1 or token.needs_approval)


def admit(
    connection: sa.Connection,
    token: sa.Row[Any],
    request: EnrolmentRequest,
    device_id: str,
    key_sha256: str,
    *,
    now: float,
) -> str | EnrolmentPending:
    """The id under which the device may enrol now, or that it has to wait.

    Raises:
        RateLimitedError: too many have asked within the hour.
        UnauthorizedError: an operator has said no.
    """
    known = connection.execute(sa.select(claims).where(claims.c.public_key_sha256 == key_sha256)).first()
    if known is None:
        _require_room(connection, token, now)
        decided = {} if token.needs_approval else {"approved": True, "decided_at": now}
        row = {
            "public_key_sha256": key_sha256,
            "token_sha256": token.token_sha256,
            "device_id": device_id,
            "request": request.model_dump(mode="json", exclude={"token", "request"}),
            "asked_at": now,
        }
        connection.execute(sa.insert(claims).values(row | decided))
        return (
            EnrolmentPending(claim_id=key_sha256[:ID_LENGTH], retry_after_s=ASK_AGAIN_S) if not decided else device_id
        )
    if known.token_sha256 != token.token_sha256 or known.approved is False:
        raise UnauthorizedError("An operator has refused this device.")
    if known.approved is None:
        return EnrolmentPending(claim_id=key_sha256[:ID_LENGTH], retry_after_s=ASK_AGAIN_S)
    return str(known.device_id)


def list_claims(database: Database) -> list[ClaimView]:
    """Devices that wait for an operator, those first that wait the longest."""
    query = (
        sa.select(claims, join_tokens.c.token_id)
        .join(join_tokens, join_tokens.c.token_sha256 == claims.c.token_sha256)
        .where(claims.c.approved.is_(None))
        .order_by(claims.c.asked_at)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        ClaimView(
            claim_id=row.public_key_sha256[:ID_LENGTH],
            device_id=row.device_id,
            token_id=row.token_id,
            asked_at=row.asked_at,
            profile=row.request.get("profile"),
            facts=row.request.get("facts", {}),
        )
        for row in rows
    ]


def decide(database: Database, claim_id: str, *, approved: bool, now: float) -> None:
    """Let a device in that waits, or not.

    Raises:
        NotFoundError: none with this id waits.
    """
    this = [claims.c.public_key_sha256.startswith(claim_id, autoescape=True), claims.c.approved.is_(None)]
    with database.write() as connection:
        found = connection.execute(sa.update(claims).where(*this).values(approved=approved, decided_at=now))
    if len(claim_id) != ID_LENGTH or not found.rowcount:
        raise NotFoundError(f"No device waits as {claim_id[:64]}: `edge-registry device waiting` shows those that do.")


def _require_room(connection: sa.Connection, token: sa.Row[Any], now: float) -> None:
    if token.uses_per_hour is None:
        return
    mine = claims.c.token_sha256 == token.token_sha256
    recent = sa.select(sa.func.count()).select_from(claims).where(mine, claims.c.asked_at > now - HOUR_S)
    if int(connection.execute(recent).scalar() or 0) >= token.uses_per_hour:
        raise RateLimitedError(f"This claim lets in {token.uses_per_hour} devices an hour, and they have come: wait.")
