"""Operators with tokens of ours: made, rotated, revoked. A token is shown once, and only its hash is kept."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.audit.trail import changed
from server.database.tables import operators
from server.errors import ConflictError, NotFoundError
from server.fleet.secrets import hash_of, id_of
from server.schemas.operators import OperatorToken, OperatorView, Role

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.operators import OperatorRequest

TOKEN_PREFIX: Final = "shoal-op-"  # so that one found in a log is recognised  # noqa: S105  a prefix, no secret


@dataclass(frozen=True, slots=True)
class KnownOperator:
    """What a token of ours stands for."""

    name: str
    role: Role
    expires_at: float
    revoked: bool

    def is_live(self, now: float) -> bool:
        """Whether the token still opens anything."""
        return not self.revoked and self.expires_at > now


def new_token() -> str:
    """A token with 256 bits of the system's randomness."""
    return f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}"


def add_operator(database: Database, request: OperatorRequest, *, by: str, now: float) -> OperatorToken:
    """Make an operator; a name that was revoked may be given again.

    Raises:
        ConflictError: there is one of this name.
    """
    with database.write() as connection:
        there = _find(connection, request.name)
        if there is not None and there.revoked_at is None:
            raise ConflictError(
                f"There is an operator {request.name} already: `edge-registry operator rotate {request.name}` gives a "
                "new token."
            )
        return insert_operator(connection, request.name, request.role, by=by, now=now, valid_s=request.valid_s)


def insert_operator(
    connection: sa.Connection, name: str, role: Role, *, by: str, now: float, valid_s: float
) -> OperatorToken:
    """The same in a transaction of the caller, in place of a revoked one of this name."""
    connection.execute(sa.delete(operators).where(operators.c.name == name, operators.c.revoked_at.is_not(None)))
    token = OperatorToken(name=name, role=role, token=new_token(), expires_at=now + valid_s)
    row = {
        "name": name,
        "role": role.value,
        "token_sha256": hash_of(token.token),
        "created_at": now,
        "created_by": by,
        "expires_at": token.expires_at,
    }
    connection.execute(sa.insert(operators).values(row))
    changed(connection, "operator.add", f"operator/{name}", after={"role": role, "expires_at": token.expires_at})
    return token


def list_operators(database: Database) -> list[OperatorView]:
    """All of them by name, the revoked ones too."""
    with database.read() as connection:
        rows = connection.execute(sa.select(operators).order_by(operators.c.name)).all()
    return [
        OperatorView(
            name=row.name,
            role=Role(row.role),
            token_id=id_of(row.token_sha256),
            created_at=row.created_at,
            created_by=row.created_by,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )
        for row in rows
    ]


def rotate_operator(database: Database, name: str, *, valid_s: float, now: float) -> OperatorToken:
    """A new token in place of the present one, which ends at once; also where that one has expired.

    Raises:
        NotFoundError: no such operator, or it is revoked.
    """
    with database.write() as connection:
        row = _require(connection, name)
        return replace_token(connection, row, valid_s=valid_s, now=now)


def replace_token(connection: sa.Connection, row: sa.Row[Any], *, valid_s: float, now: float) -> OperatorToken:
    """The same in a transaction of the caller."""
    token = OperatorToken(name=row.name, role=Role(row.role), token=new_token(), expires_at=now + valid_s)
    digest = hash_of(token.token)
    values = {"token_sha256": digest, "expires_at": token.expires_at}
    connection.execute(sa.update(operators).where(operators.c.name == row.name).values(values))
    changed(
        connection,
        "operator.rotate",
        f"operator/{row.name}",
        before={"token_id": id_of(row.token_sha256), "expires_at": row.expires_at},
        after={"token_id": id_of(digest), "expires_at": token.expires_at},
    )
    return token


def revoke_operator(database: Database, name: str, *, now: float) -> None:
    """Make a token worthless, at once.

    Raises:
        NotFoundError: no such operator, or it is revoked already.
        ConflictError: nobody could make operators afterwards.
    """
    with database.write() as connection:
        row = _require(connection, name)
        if row.role == Role.ADMIN and not _other_admin(connection, name, now):
            raise ConflictError(
                f"{name} is the last admin whose token is valid: make another one first, with `edge-registry operator "
                "add NAME --role admin`."
            )
        connection.execute(sa.update(operators).where(operators.c.name == name).values(revoked_at=now))
        changed(connection, "operator.revoke", f"operator/{name}", before={"role": row.role, "revoked": False})


def find_by_token(connection: sa.Connection, token: str) -> KnownOperator | None:
    """Whose token it is. Found by its hash: what is compared is nothing that a guesser could approach."""
    row = connection.execute(sa.select(operators).where(operators.c.token_sha256 == hash_of(token))).first()
    if row is None:
        return None
    return KnownOperator(row.name, Role(row.role), row.expires_at, revoked=row.revoked_at is not None)


def _find(connection: sa.Connection, name: str) -> sa.Row[Any] | None:
    return connection.execute(sa.select(operators).where(operators.c.name == name)).first()


def _require(connection: sa.Connection, name: str) -> sa.Row[Any]:
    row = _find(connection, name)
    if row is None or row.revoked_at is not None:
        state = "is revoked" if row is not None else "does not exist"
        raise NotFoundError(f"Operator {name} {state}: `edge-registry operator list` shows those that are there.")
    return row


def _other_admin(connection: sa.Connection, name: str, now: float) -> bool:
    query = sa.select(operators.c.name).where(
        operators.c.role == Role.ADMIN.value,
        operators.c.name != name,
        operators.c.revoked_at.is_(None),
        operators.c.expires_at > now,
    )
    return connection.execute(query).first() is not None
