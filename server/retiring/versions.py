"""A version that is retired is built and rolled out no more; retention frees its files after the grace period."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.audit.trail import changed
from server.catalogue.versions import require_version, retired_times, versions_of
from server.database.tables import retired_versions
from server.errors import ConflictError
from server.retention.merging import DAY_S
from server.retiring.uses import why_needed

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.catalogue import ModelVersion


def retire(database: Database, model: str, version: str | None, *, now: float) -> list[ModelVersion]:
    """Take a version out of use, or all of a model; what is retired already stays so. All of it or nothing.

    Raises:
        NotFoundError: no such version.
        ConflictError: something needs it; the sentence names it.
    """
    with database.write() as connection:
        meant = _meant(connection, model, version)
        known = retired_times(connection, model)
        for name in (name for name in meant if name not in known):
            if needed := why_needed(connection, model, name):
                raise ConflictError(f"Version {name} of model {model} can't be retired: {needed}.")
            row = {"model": model, "version": name, "retired_at": now}
            connection.execute(sa.insert(retired_versions).values(row))
            changed(connection, "version.retire", f"model/{model}@{name}", after={"retired_at": now})
        return [require_version(connection, model, name) for name in meant]


def bring_back(
    database: Database, model: str, version: str | None, *, now: float, grace_days: float
) -> list[ModelVersion]:
    """Take a version back into use, or all of a model that are retired. All of it or nothing.

    Raises:
        NotFoundError: no such version.
        ConflictError: none is retired, or it was so long ago that its files may be gone.
    """
    with database.write() as connection:
        known = retired_times(connection, model)
        meant = [name for name in _meant(connection, model, version) if name in known]
        if not meant:
            what = (
                f"No version of model {model} is" if version is None else f"Version {version} of model {model} is not"
            )
            raise ConflictError(f"{what} retired: `edge-registry model list --all` shows what is.")
        for name in meant:
            if known[name] < now - grace_days * DAY_S:
                raise ConflictError(
                    f"Version {name} of model {model} was retired more than {grace_days:g} days ago, and its files "
                    "are freed: push it under a new version."
                )
        gone = retired_versions.c
        connection.execute(sa.delete(retired_versions).where(gone.model == model, gone.version.in_(meant)))
        for name in meant:
            changed(connection, "version.bring_back", f"model/{model}@{name}", before={"retired_at": known[name]})
        return [require_version(connection, model, name) for name in meant]


def _meant(connection: sa.Connection, model: str, version: str | None) -> list[str]:
    if version is None:
        return versions_of(connection, model)
    require_version(connection, model, version)
    return [version]
