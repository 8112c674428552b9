"""The admin of whoever runs the registry."""

import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.database.connect import Database
from server.database.migrate import CATALOGUE, upgrade_schema
from server.database.tables import audit_log, operators
from server.errors import SettingsError
from server.operators.accounts import add_operator, find_by_token, list_operators, revoke_operator
from server.operators.local import LOCAL_VALID_S, ensure_local_admin
from server.operators.token_file import read_token_file
from server.places import LOCAL_TOKEN_NAME
from server.schemas.operators import DAY_S, OperatorRequest, Role


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(f"sqlite:///{tmp_path / 'registry.db'}")
    upgrade_schema(database, CATALOGUE)
    return database


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Callable[..., str]:
    """What a start of the API does; the token that is there afterwards."""

    def started(now: float | None = None, folder: Path = tmp_path) -> str:
        ensure_local_admin(database, folder, clock=lambda: time.time() if now is None else now)
        token = read_token_file(folder / LOCAL_TOKEN_NAME)
        assert token is not None
        return token

    return started


def is_live(database: Database, token: str, now: float | None = None) -> bool:
    with database.read() as connection:
        found = find_by_token(connection, token)
    return found is not None and found.role is Role.ADMIN and found.is_live(time.time() if now is None else now)


def test_first_start_makes_an_admin_whose_token_only_the_owner_can_read(
    database: Database, start: Callable[..., str], tmp_path: Path
) -> None:
    token = start()
    assert is_live(database, token)
    assert stat.S_IMODE((tmp_path / LOCAL_TOKEN_NAME).stat().st_mode) == 0o600
    assert start() == token
    with database.read() as connection:
        stored = str([connection.execute(sa.select(table)).all() for table in (operators, audit_log)])
        (row,) = connection.execute(sa.select(audit_log)).all()
    assert token not in stored
    assert (row.change, row.who.startswith("local:")) == ("operator.add", True)


def test_start_renews_a_token_before_it_expires_and_the_old_one_ends(
    database: Database, start: Callable[..., str]
) -> None:
    first = start()
    later = time.time() + LOCAL_VALID_S - 30 * DAY_S
    second = start(now=later)
    assert second != first
    assert not is_live(database, first)
    assert is_live(database, second, later)
    assert len(list_operators(database)) == 1


def test_file_that_is_gone_or_of_another_registry_is_made_anew(
    database: Database, start: Callable[..., str], tmp_path: Path
) -> None:
    first = start()
    (tmp_path / LOCAL_TOKEN_NAME).write_text("shoal-op-of-another-registry\n")
    second = start()
    (tmp_path / LOCAL_TOKEN_NAME).unlink()
    third = start()
    assert len({first, second, third}) == 3
    assert is_live(database, third)


def test_token_that_was_revoked_stays_so_while_there_is_another_admin(
    database: Database, start: Callable[..., str]
) -> None:
    token, now = start(), time.time()
    other = add_operator(database, OperatorRequest(name="ada", role=Role.ADMIN, valid_s=DAY_S), by="test", now=now)
    (local,) = (one.name for one in list_operators(database) if one.name != "ada")
    revoke_operator(database, local, now=now)
    assert start() == token
    assert not is_live(database, token)
    # the other one has expired: whoever runs the registry would be locked out of it
    later = now + 2 * DAY_S
    assert not is_live(database, other.token, later)
    assert is_live(database, start(now=later), later)


def test_second_data_folder_has_a_token_of_its_own(
    database: Database, start: Callable[..., str], tmp_path: Path
) -> None:
    first = start()
    (tmp_path / "other").mkdir()
    second = start(folder=tmp_path / "other")
    assert is_live(database, first)
    assert is_live(database, second)


def test_folder_that_takes_no_file_is_one_sentence_and_leaves_no_admin(database: Database, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="admin token can't be written"):
        ensure_local_admin(database, tmp_path / "nothing", clock=time.time)
    assert list_operators(database) == []
