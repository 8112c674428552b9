"""The catalogue as one asker gets it: every writing transaction knows who asks, and none ends without a record."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from server.audit.trail import TRAIL, Asker, Trail
from server.database.connect import Database
from server.database.tables import audit_log
from server.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy as sa

_OWN: Final = audit_log.name


class UnrecordedChangeError(RegistryError):
    """A change that nothing recorded: a fault of ours. It was undone."""

    code = "internal"


class AuditedDatabase(Database):
    """The same engine through a door of one asker; it is never closed here."""

    def __init__(self, database: Database, asker: Asker, clock: Callable[[], float]) -> None:  # no engine of its own
        self.url, self.is_sqlite, self.engine = database.url, database.is_sqlite, database.engine
        self.asker = asker
        self._clock = clock

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """As `Database.write`; what was changed must have been recorded by `changed` when it ends.

        Raises:
            DatabaseUnavailableError: nothing was written.
            UnrecordedChangeError: it was not; nothing was written.
        """
        trail = Trail(self.asker, self._clock())

        def note(_connection: Any, _cursor: Any, _sql: Any, _parameters: Any, context: Any, _many: Any) -> None:  # noqa: ANN401  SQLAlchemy's event
            if context.isinsert or ((context.isupdate or context.isdelete) and context.rowcount):
                trail.written.add(context.compiled.statement.table.name)

        with super().write() as connection:
            connection.info[TRAIL] = trail
            event.listen(connection, "after_cursor_execute", note)
            try:
                yield connection
            finally:
                event.remove(connection, "after_cursor_execute", note)
                connection.info.pop(TRAIL, None)
            if trail.written - {_OWN} and not trail.recorded:
                tables = ", ".join(sorted(trail.written))
                raise UnrecordedChangeError(f"{self.asker.operation} changed {tables} and recorded nothing.")
