"""The chain over rows in memory: what breaks it is named, and no secret gets into it."""

import json
from typing import Any

import pytest

from server.audit.chain import FIRST, HIDDEN, LIMIT_BYTES, ChainCheck, hash_of, linked, told
from server.schemas.audit import AuditEntry, Outcome


def content(number: int, **changes: object) -> dict[str, Any]:
    return {
        "at": 1000.0 + number / 3,
        "who": "ada",
        "role": "admin",
        "address": "127.0.0.1",
        "request_id": f"{number:016x}",
        "operation": "label_device",
        "change": "device.label",
        "subject": f"device/dev-{number}",
        "outcome": Outcome.DONE,
        "before": "",
        "after": told({"site": "Zürich \0"}),
        **changes,
    }


@pytest.fixture
def entries() -> list[AuditEntry]:
    """Five rows."""
    made: list[AuditEntry] = []
    last = (0, FIRST)
    for number in range(5):
        made.append(linked(last, content(number)))
        last = (made[-1].sequence, made[-1].sha256)
    return made


def check_of(entries: list[AuditEntry]) -> ChainCheck:
    check = ChainCheck()
    for entry in entries:  # in pages of one
        check.take([entry])
    return check


def test_chain_that_is_whole_ends_at_its_head(entries: list[AuditEntry]) -> None:
    check = check_of(entries)
    assert (check.broken, check.sequence, check.sha256) == (None, 5, entries[-1].sha256)
    assert check_of([]).broken is None


@pytest.mark.parametrize("field", sorted(set(AuditEntry.model_fields) - {"sha256", "sequence", "previous_sha256"}))
def test_row_that_was_changed_in_any_field_is_named(entries: list[AuditEntry], field: str) -> None:
    other: object = {"at": 1.0, "outcome": Outcome.REFUSED}.get(field, "other")
    entries[2] = entries[2].model_copy(update={field: other})
    broken = check_of(entries).broken
    assert broken is not None
    assert (broken.sequence, "not that of what it says" in broken.reason) == (3, True)


def test_row_that_was_changed_with_its_hash_breaks_the_next(entries: list[AuditEntry]) -> None:
    changed = entries[2].model_copy(update={"who": "eve"})
    entries[2] = changed.model_copy(update={"sha256": hash_of(changed)})
    broken = check_of(entries).broken
    assert broken is not None
    assert (broken.sequence, "hash of the row before" in broken.reason) == (4, True)


def test_row_that_was_taken_out_is_missed(entries: list[AuditEntry]) -> None:
    del entries[1]
    broken = check_of(entries).broken
    assert broken is not None
    assert (broken.sequence, broken.reason) == (3, "row 2 is missing before it")


def test_rows_that_changed_places_are_found(entries: list[AuditEntry]) -> None:
    entries[1], entries[2] = entries[2], entries[1]
    broken = check_of(entries).broken
    assert broken is not None
    assert broken.sequence == 3


@pytest.mark.parametrize("name", ["token", "key", "Password", "SECRET", "key_sha256"])
def test_secret_by_its_name_is_hidden_at_any_depth(name: str) -> None:
    text = told({"a": [{"b": {name: "hunter2"}}], name: {"deep": "hunter2"}})
    assert "hunter2" not in text
    assert text.count(HIDDEN) == 2


def test_document_that_is_too_large_stands_by_its_hash() -> None:
    text = told({"x": "y" * LIMIT_BYTES})
    assert len(text) < 200
    assert set(json.loads(text)) == {"too_large_bytes", "sha256"}
    assert told(None) == ""
