"""From a database URL to where it leads. No sentence about a mistake in it shows the URL: it may hold a password."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from server.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

SQLITE: Final = "sqlite"
DRIVER: Final = "psycopg"
# `postgresql://` is what providers print, and SQLAlchemy would look for the older driver.
_POSTGRESQL: Final = frozenset({"postgres", "postgresql", f"postgresql+{DRIVER}"})
_EXAMPLES: Final = "give one such as sqlite:////path/registry.db or postgresql://user:password@host:5432/name"

# A server that is gone without a word (a power cut, a cut cable) is noticed within half a minute, not two hours.
_NOTICE: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


def parse(url: str) -> sa.URL:
    """The address with its driver.

    Raises:
        SettingsError: it is no address of a SQLite file or a PostgreSQL database.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # SQLAlchemy's own text may show the part that it did not understand
        raise SettingsError(f"The database URL is not usable: {_EXAMPLES}.") from None
    if parsed.drivername == SQLITE:
        return parsed
    if parsed.drivername not in _POSTGRESQL:
        raise SettingsError(
            f"The database URL is not usable: {parsed.drivername[:32]!r} is neither SQLite nor PostgreSQL; {_EXAMPLES}."
        )
    if "@" in (parsed.host or ""):
        raise SettingsError(
            "The database URL has more than one @: write one that belongs to the user or the password as %40."
        )
    if not parsed.database:
        raise SettingsError(f"The database URL names no database: {_EXAMPLES}.")
    return parsed.set(drivername=f"postgresql+{DRIVER}")


def connect_arguments(query: Mapping[str, object], *, lock_timeout_s: float) -> dict[str, object]:
    """What libpq is told beyond the URL; what stands in the `?query` of the URL wins."""
    arguments: dict[str, object] = {name: value for name, value in _NOTICE.items() if name not in query}
    ours = f"-c lock_timeout={lock_timeout_s * 1000:.0f} -c timezone=UTC"
    arguments["options"] = f"{ours} {query.get('options', '')}".strip()
    return arguments
