"""Rows from one database to another, whatever either is: SQLite or PostgreSQL. Memory is that of one chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from server.backup.progress import Told

    Change = Callable[[sa.Table, Mapping[str, Any]], Mapping[str, Any]]

CHUNK_ROWS: Final = 1000


def copy_table(
    source: sa.Connection,
    target: sa.Connection,
    table: sa.Table,
    *,
    change: Change = lambda _table, row: row,
    told: Told,
) -> int:
    """Copy all rows of a table into an empty one.

    Args:
        source: in a read transaction.
        target: in a writing one.
        table: the same in both.
        change: what a row is to say there.
        told: how many are copied, after each chunk.

    Returns:
        How many rows there are.
    """
    insert = sa.insert(_with_plain_nulls(table))
    of = source.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0
    count = 0
    with source.execution_options(yield_per=CHUNK_ROWS).execute(sa.select(table)) as rows:
        for chunk in rows.partitions():
            target.execute(insert, [dict(change(table, row._asdict())) for row in chunk])
            count += len(chunk)
            told(table.name, count, of)
    return count


def is_filled(connection: sa.Connection, metadata: sa.MetaData) -> bool:
    """Whether any of these tables is there and has a row."""
    there = set(sa.inspect(connection).get_table_names())
    return any(
        connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None
        for table in metadata.sorted_tables
        if table.name in there
    )


def count_on(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Have the numbers that PostgreSQL gives out go on after the highest that was copied; SQLite does by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        highest = connection.execute(sa.select(sa.func.max(column))).scalar()
        if highest is not None:
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(sa.select(sa.func.setval(sequence, highest)))


def _with_plain_nulls(table: sa.Table) -> sa.Table:
    """The same table, where None in a JSON column is NULL: both read as None, and nobody asks which one it is."""
    copy = table.to_metadata(sa.MetaData())
    for column in copy.columns:
        if isinstance(column.type, sa.JSON):
            column.type = sa.JSON(none_as_null=True)
    return copy
