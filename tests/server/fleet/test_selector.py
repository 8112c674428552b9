"""Which devices a selector means."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fleet.selector import Selector, SelectorError, Term, parse

LABELS = {"site": "berlin", "ring": "canary"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("  ", True),
        ("site=berlin", True),
        ("site==berlin", True),
        ("site=Berlin", False),
        ("site!=berlin", False),
        (" site = berlin , ring != stable ", True),
        ("ring!=stable,site=paris", False),
        ("floor=2", False),
        ("floor!=2", True),
        ("profile=pi-4", True),
        ("profile!=pi-4", False),
        ("id=dev-1", True),
        ("device_id=dev-1", True),
        ("id=dev-2", False),
        ("site=berlin,site!=berlin", False),
    ],
)
def test_matches_follows_every_term(text: str, *, expected: bool) -> None:
    assert parse(text).matches(LABELS, "pi-4", "dev-1") is expected


@pytest.mark.parametrize(
    "text", ["site", "=berlin", "site=", "site=a b", "site=berlin,", ",", "site~berlin", "1a=b", "s+te=#", "site=🐟"]
)
def test_parse_unreadable_names_the_part(text: str) -> None:
    with pytest.raises(SelectorError, match="not KEY=VALUE"):
        parse(text)


def test_parse_too_long_is_refused() -> None:
    with pytest.raises(SelectorError, match="at most 512"):
        parse("a=" + "b" * 600)


@given(
    st.lists(
        st.builds(
            Term,
            key=st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,10}", fullmatch=True),
            value=st.from_regex(r"[A-Za-z0-9_.-]{1,10}", fullmatch=True),
            negated=st.booleans(),
        ),
        max_size=8,
    )
)
def test_parse_reads_what_str_writes(terms: list[Term]) -> None:
    selector = Selector(tuple(terms))
    assert parse(str(selector)) == selector


@given(st.text(max_size=600))
def test_parse_any_text_is_read_or_refused(text: str) -> None:
    with suppress(SelectorError):
        parse(text).matches({}, "p", "d")
