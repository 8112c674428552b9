from __future__ import annotations

from typing import TYPE_CHECKING

from server.webhook.cursor import move_on, next_notice, skip_older

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.database.connect import Database


def following(database: Database) -> int | None:
    notice = next_notice(database)
    return None if notice is None else notice.id


def skipped(database: Database, before: float) -> tuple[int, int]:
    with database.write() as connection:
        return skip_older(connection, before)


def test_move_on_former_leader_that_comes_late_takes_nothing_back(
    database: Database, decide: Callable[..., None]
) -> None:
    assert following(database) is None
    decide(4)
    assert following(database) == 1
    for late in (3, 1, 3):
        with database.write() as connection:
            move_on(connection, late)
        assert following(database) == 4


def test_skip_older_ends_at_the_first_that_is_fresh(database: Database, decide: Callable[..., None]) -> None:
    for at in (10.0, 20.0, 30.0, 10.0):  # the clock was set back
        decide(at=at)
    assert (skipped(database, 30.0), following(database)) == ((2, 2), 3)
    assert (skipped(database, 30.0), following(database)) == ((0, 0), 3)
    assert (skipped(database, 99.0), following(database)) == ((2, 4), None)
    decide()
    assert following(database) == 5
