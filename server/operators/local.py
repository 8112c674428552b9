"""The admin of whoever runs the registry: a token in the data folder, where the commands on this machine find it.

It gives nobody more than they had: who may read the data folder may read and write the database there, too.
"""

from __future__ import annotations

import getpass
import logging
import re
import secrets
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from server.audit.door import AuditedDatabase
from server.audit.trail import Asker
from server.database.tables import operators
from server.durable import replace_file
from server.errors import SettingsError
from server.fleet.secrets import hash_of
from server.operators.accounts import insert_operator, replace_token
from server.operators.token_file import read_token_file
from server.places import LOCAL_TOKEN_NAME
from server.schemas.operators import DAY_S, Role

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from server.database.connect import Database

logger = logging.getLogger(__name__)

LOCAL_VALID_S: Final = 366 * DAY_S
RENEWED_S: Final = 183 * DAY_S  # with less left, a start gives a new one


def local_asker(operation: str) -> Asker:
    """The user whose process this is."""
    return Asker(who=f"local:{_user()}", role=Role.ADMIN.value, operation=operation)


def ensure_local_admin(database: Database, data_dir: Path, *, clock: Callable[[], float]) -> None:
    """Have a valid admin token in the data folder; the one that is there stays, as long as it is.

    One that an admin has revoked stays revoked while another admin can log in: remove the file to have a new one.

    Raises:
        DatabaseUnavailableError: the database can't be written.
        SettingsError: the data folder can't be.
    """
    path = data_dir / LOCAL_TOKEN_NAME
    now = clock()
    # the file is written inside the turn: two processes that start at once must not take each other's token away
    with AuditedDatabase(database, local_asker("start"), clock).write() as connection:
        found = read_token_file(path)
        row = None
        if found is not None:
            row = connection.execute(sa.select(operators).where(operators.c.token_sha256 == hash_of(found))).first()
        if row is not None and row.revoked_at is not None and _any_admin(connection, now):
            logger.warning("The token in %s was revoked, and stays so.", path)
            return
        if row is not None and row.revoked_at is None and row.expires_at - now > RENEWED_S:
            return
        if row is not None and row.revoked_at is None:
            token = replace_token(connection, row, valid_s=LOCAL_VALID_S, now=now)
        else:
            name = f"local-{_user()}-{secrets.token_hex(3)}"
            token = insert_operator(
                connection, name, Role.ADMIN, by=local_asker("").who, now=now, valid_s=LOCAL_VALID_S
            )
        try:
            replace_file(path, f"{token.token}\n".encode())
        except OSError as exc:
            raise SettingsError(f"The admin token can't be written to {path}: {exc.strerror}.") from exc


def _any_admin(connection: sa.Connection, now: float) -> bool:
    live = (operators.c.revoked_at.is_(None), operators.c.expires_at > now, operators.c.role == Role.ADMIN.value)
    return connection.execute(sa.select(operators.c.name).where(*live)).first() is not None


def _user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return "user"
    return re.sub(r"[^A-Za-z0-9_-]", "-", user)[:32] or "user"
