"""Profiles: a name means one document for ever, because variants were judged against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from edge_agent.protocol.profile import DeviceProfile
from server.audit.trail import changed
from server.database.tables import profiles
from server.errors import ConflictError, InvalidError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.database.connect import Database


def add_profile(database: Database, profile: DeviceProfile, *, now: float) -> bool:
    """Register a profile; the same document again changes nothing.

    Returns:
        Whether it is new.

    Raises:
        ConflictError: the name belongs to another document.
    """
    with database.write() as connection:
        return insert_profile(connection, profile, now=now)


def insert_profile(connection: sa.Connection, profile: DeviceProfile, *, now: float) -> bool:
    """The same, inside a transaction of the caller."""
    existing = find_profile(connection, profile.name)
    if existing == profile:
        return False
    if existing is not None:
        raise ConflictError(
            f"The profile {profile.name} exists with other values, and variants are judged by them: "
            "register the changed one under a new name."
        )
    document = profile.model_dump(mode="json")
    connection.execute(sa.insert(profiles).values(name=profile.name, document=document, created_at=now))
    changed(connection, "profile.add", f"profile/{profile.name}", after=document)
    return True


def find_profile(connection: sa.Connection, name: str) -> DeviceProfile | None:
    """A profile, or None."""
    row = connection.execute(sa.select(profiles.c.document).where(profiles.c.name == name)).first()
    return None if row is None else DeviceProfile.model_validate(row.document)


def get_profile(database: Database, name: str) -> DeviceProfile:
    """A profile.

    Raises:
        NotFoundError: there is none of this name.
    """
    with database.read() as connection:
        profile = find_profile(connection, name)
    if profile is None:
        raise NotFoundError(
            f"There is no profile {name}: `edge-registry profile list` shows those that are registered."
        )
    return profile


def list_profiles(database: Database) -> list[DeviceProfile]:
    """All profiles by name."""
    with database.read() as connection:
        rows = connection.execute(sa.select(profiles.c.document).order_by(profiles.c.name)).all()
    return [DeviceProfile.model_validate(row.document) for row in rows]


def profile_names(connection: sa.Connection) -> list[str]:
    """All names in order."""
    return list(connection.execute(sa.select(profiles.c.name).order_by(profiles.c.name)).scalars())


def require_profiles(connection: sa.Connection, names: Sequence[str]) -> Sequence[str]:
    """The names, if each is a profile.

    Raises:
        InvalidError: no profile is registered at all.
        NotFoundError: one of them is not.
    """
    known = profile_names(connection)
    if not known:
        raise InvalidError("No profile is registered to build for: add one with `edge-registry profile add`.")
    for name in names:
        if name not in known:
            raise NotFoundError(f"There is no profile {name}: registered are {', '.join(known)}.")
    return names
