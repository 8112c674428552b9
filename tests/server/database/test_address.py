"""A database URL leads somewhere, or is refused in a sentence that keeps its password to itself."""

import pytest

from server.database.address import connect_arguments, parse
from server.errors import SettingsError


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_parse_any_spelling_of_postgresql_takes_the_one_driver(scheme: str) -> None:
    url = parse(f"{scheme}://operator:p%40ss%2Fword@db.example:5433/shoal?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "operator",
        "p@ss/word",
        "db.example",
        5433,
        "shoal",
    )
    assert url.query == {"sslmode": "require"}


def test_parse_sqlite_stays_as_it_is() -> None:
    assert parse("sqlite:////var/lib/shoal/registry.db").database == "/var/lib/shoal/registry.db"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "not usable"),
        ("postgresql://operator:hidden@host:hidden/shoal", "not usable"),
        ("mysql://operator:hidden@host/shoal", "'mysql' is neither SQLite nor PostgreSQL"),
        ("postgresql+asyncpg://operator:hidden@host/shoal", "neither SQLite nor PostgreSQL"),
        ("postgresql://operator:hid@den@host/shoal", "write one that belongs to the user or the password as %40"),
        ("postgresql://operator:hidden@host", "names no database"),
    ],
)
def test_parse_mistake_is_named_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(url)
    assert sentence in str(caught.value)
    assert not any(part in str(caught.value) for part in ("hidden", "hid@", "den@host"))


def test_connect_arguments_what_the_url_says_wins() -> None:
    arguments = connect_arguments({"connect_timeout": "3", "options": "-c lock_timeout=1s"}, lock_timeout_s=30)
    assert "connect_timeout" not in arguments
    assert str(arguments["options"]).endswith("-c lock_timeout=1s")
