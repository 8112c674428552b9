"""Decisions reach a real receiver, on both kinds of database, in order, whatever becomes of it meanwhile."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from server.errors import DatabaseUnavailableError
from server.mqtt import Backoff
from server.webhook import telling
from server.webhook.receiver import Receiver
from server.webhook.rules import KEPT_S, SIGNATURE_HEADER, signature_of
from server.webhook.telling import Teller, keep_telling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.database.connect import Database
    from tests.server.hook import Hook

    Decide = Callable[..., None]


def wait_for(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def told(
    database: Database,
    hook: Hook,
    *,
    is_due: Callable[[], bool] = lambda: True,
    clock: Callable[[], float] = time.time,
    secret: str | None = None,
    timeout_s: float = 10.0,
) -> Iterator[None]:
    """Meanwhile decisions are told to the hook."""
    stop = threading.Event()
    receiver = Receiver(hook.url, secret, answer_timeout_s=timeout_s)
    thread = threading.Thread(
        target=keep_telling,
        args=(Teller(database, receiver, clock=clock), stop),
        kwargs={"is_due": is_due, "look_s": 0.02, "backoff": Backoff(first_s=0.01, longest_s=0.05)},
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        receiver.close()


def test_keep_telling_each_decision_arrives_once_in_order_and_whole(
    database: Database, hook: Hook, decide: Decide
) -> None:
    decide(2, at=time.time() - 60.0)
    with told(database, hook):
        wait_for(lambda: len(hook.taken) == 2)
        decide(3, at=(at := time.time()))
        wait_for(lambda: len(hook.taken) == 5)
        time.sleep(0.1)
    assert hook.taken == [1, 2, 3, 4, 5]
    assert hook.posted[-1].document == {
        "id": 5,
        "at": at,
        "rollout_id": "r1",
        "model": "price",
        "version": "2",
        "action": "wave_opened",
        "sentence": "Wave 1 is open: é.",
        "numbers": {"wave": 1, "share": 0.5},
    }
    assert hook.posted[-1].headers["Content-Type"] == "application/json"
    assert SIGNATURE_HEADER not in hook.posted[-1].headers


def test_keep_telling_with_a_secret_signs_the_very_bytes(database: Database, hook: Hook, decide: Decide) -> None:
    decide()
    with told(database, hook, secret="é secret"):
        wait_for(lambda: hook.taken == [1])
    (posted,) = hook.posted
    assert posted.headers[SIGNATURE_HEADER] == signature_of(posted.body, "é secret")


def test_keep_telling_again_goes_on_where_it_was(database: Database, hook: Hook, decide: Decide) -> None:
    for expected in ([1, 2], [1, 2, 3, 4]):
        decide(2)
        with told(database, hook):
            wait_for(lambda expected=expected: hook.taken == expected)  # type: ignore[misc]  # bound on purpose
    with told(database, hook):
        time.sleep(0.1)
    assert hook.taken == [1, 2, 3, 4]


def test_tell_next_not_noted_is_told_again_with_the_same_bytes(
    database: Database, hook: Hook, decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseUnavailableError("it is away")

    decide(2)
    receiver = Receiver(hook.url)
    teller = Teller(database, receiver)
    with monkeypatch.context() as patch:
        patch.setattr(telling, "move_on", fail)
        with pytest.raises(DatabaseUnavailableError):
            teller.tell_next()
    while teller.tell_next() is not None:
        pass
    receiver.close()
    assert hook.taken == [1, 1, 2]
    assert hook.posted[0].body == hook.posted[1].body


def test_keep_telling_receiver_away_then_back_loses_nothing_and_is_logged_once(
    database: Database, hook: Hook, decide: Decide, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="server")
    hook.stop()
    with told(database, hook):
        decide(3)
        wait_for(lambda: "wait for" in caplog.text)
        time.sleep(0.2)
        hook.start()
        wait_for(lambda: len(hook.taken) == 3)
        wait_for(lambda: "takes decisions again" in caplog.text)
    assert hook.taken == [1, 2, 3]
    assert len(caplog.records) == 2
    assert f"decision 1 and those after it wait for {hook.url}" in caplog.text


@pytest.mark.parametrize("status", [500, 503, 408, 429, 302])
def test_keep_telling_receiver_that_can_not_now_is_told_the_same_again_before_the_next(
    database: Database, hook: Hook, decide: Decide, status: int
) -> None:
    hook.statuses += [status, status]
    decide(2)
    with told(database, hook):
        wait_for(lambda: hook.taken == [1, 2])
    assert [posted.document["id"] for posted in hook.posted] == [1, 1, 1, 2]


def test_keep_telling_refused_decision_is_logged_once_and_skipped(
    database: Database, hook: Hook, decide: Decide, caplog: pytest.LogCaptureFixture
) -> None:
    hook.statuses += [200, 400]
    decide(3)
    with told(database, hook):
        wait_for(lambda: len(hook.posted) == 3)
        time.sleep(0.1)
    assert hook.taken == [1, 3]
    assert [record.message for record in caplog.records if record.name.startswith("server")] == [
        f"webhook: {hook.url} refuses decision 2 with 400; it is not told again"
    ]


def test_keep_telling_what_is_over_a_day_old_is_skipped_with_one_line(
    database: Database, hook: Hook, decide: Decide, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1e9
    decide(3, at=now - KEPT_S - 1)
    decide(2, at=now - KEPT_S + 1)
    with told(database, hook, clock=lambda: now):
        wait_for(lambda: hook.taken == [4, 5])
        now += 1e6
        decide(2, at=now - KEPT_S - 1)
        wait_for(lambda: "2 decisions are over a day old" in caplog.text)
        decide(1, at=now)
        wait_for(lambda: hook.taken == [4, 5, 8])
    assert "3 decisions are over a day old" in caplog.text
    assert len([record for record in caplog.records if record.name.startswith("server")]) == 2


def test_keep_telling_who_does_not_lead_tells_nothing_until_it_does(
    database: Database, hook: Hook, decide: Decide
) -> None:
    leads = False
    decide(2)
    with told(database, hook, is_due=lambda: leads):
        time.sleep(0.2)
        assert hook.posted == []
        leads = True
        wait_for(lambda: hook.taken == [1, 2])


def test_keep_telling_silent_receiver_is_asked_again(database: Database, hook: Hook, decide: Decide) -> None:
    decide(2)
    hook.answers.clear()
    with told(database, hook, timeout_s=0.1):
        wait_for(lambda: len(hook.posted) >= 2)
        hook.answers.set()
        wait_for(lambda: 2 in hook.taken)
    told_ids = [posted.document["id"] for posted in hook.posted]
    assert told_ids == sorted(told_ids)
    assert set(told_ids) == {1, 2}
