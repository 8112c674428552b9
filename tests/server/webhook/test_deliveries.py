"""What people are shown of the webhook, while real decisions go to a real receiver that fails in every way."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from server.database import tables
from server.mqtt import Backoff
from server.webhook.cursor import move_on
from server.webhook.deliveries import KEPT, SHOWN, Attempt, note, webhook_status
from server.webhook.receiver import Receiver, shown_address
from server.webhook.rules import KEPT_S, Fate
from server.webhook.telling import Teller, keep_telling

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.database.connect import Database
    from server.schemas.webhook import WebhookStatus
    from tests.server.hook import Hook

    Decide = Callable[..., None]


def shown(database: Database) -> WebhookStatus:
    return webhook_status(database, receiver="http://hooks.example", signed=False)


def tell(database: Database, hook: Hook, *, until: Callable[[WebhookStatus], bool]) -> WebhookStatus:
    """Decisions are told to the hook until it shows in what people see."""
    stop, receiver = threading.Event(), Receiver(hook.url)
    backoff = Backoff(first_s=0.05, longest_s=0.2)
    options = {"is_due": lambda: True, "look_s": 0.02, "backoff": backoff}
    thread = threading.Thread(target=keep_telling, args=(Teller(database, receiver), stop), kwargs=options)
    thread.start()
    try:
        end_s = time.monotonic() + 30
        while not until(found := shown(database)):
            assert time.monotonic() < end_s, found
            time.sleep(0.01)
    finally:
        stop.set()
        thread.join()
        receiver.close()
    return found


def test_status_tells_what_was_taken_refused_and_tried_again(database: Database, hook: Hook, decide: Decide) -> None:
    hook.statuses.extend([204, 400, 500, 503])
    decide(3)
    found = tell(database, hook, until=lambda status: len(status.deliveries) == 3 and not status.waiting)
    told = [(one.decision_id, one.fate, one.status, one.attempts, one.failure) for one in found.deliveries]
    assert told == [
        (3, "taken", 204, 3, ""),
        (2, "refused", 400, 1, "it answers 400"),
        (1, "taken", 204, 1, ""),
    ]
    assert (found.waiting, found.waiting_since, found.next_try_at) == (0, None, None)
    assert found.deliveries[0].model == "price"


def test_status_of_a_receiver_that_is_away_says_since_when_and_when_the_next_try_comes(
    database: Database, hook: Hook, decide: Decide
) -> None:
    hook.stop()
    decide(4, at=(at := time.time()))
    found = tell(database, hook, until=lambda s: bool(s.deliveries) and s.deliveries[0].attempts >= 3)
    assert (found.waiting, found.waiting_since) == (4, at)
    (one,) = found.deliveries
    assert (one.decision_id, one.fate, one.status) == (1, "later", None)
    assert one.failure.startswith("it was not reached")
    assert found.next_try_at is not None
    assert one.tried_at < found.next_try_at <= one.tried_at + 1
    hook.start()
    found = tell(database, hook, until=lambda status: not status.waiting)
    assert [one.fate for one in found.deliveries] == ["taken"] * 4
    assert found.next_try_at is None
    assert found.deliveries[-1].attempts >= 4


def test_status_tells_of_those_that_were_too_old(database: Database, hook: Hook, decide: Decide) -> None:
    decide(3, at=time.time() - KEPT_S - 60)
    decide()
    found = tell(database, hook, until=lambda status: len(status.deliveries) == 2)
    assert [(one.decision_id, one.fate) for one in found.deliveries] == [(4, "taken"), (3, "skipped")]
    assert found.deliveries[1].failure == "3 up to this one were over a day old"


def test_note_former_leader_that_comes_late_takes_nothing_back(database: Database, decide: Decide) -> None:
    decide(2)
    with database.write() as connection:
        note(connection, Attempt(1, 10.0, Fate.TAKEN, 204))
        move_on(connection, 1)
        note(connection, Attempt(1, 11.0, Fate.LATER, failure="late", next_try_at=12.0))
    assert [(one.fate, one.tried_at) for one in shown(database).deliveries] == [("taken", 10.0)]


def test_note_keeps_the_latest(database: Database, decide: Decide) -> None:
    decide(KEPT + 5)
    with database.write() as connection:
        for number in range(1, KEPT + 6):
            note(connection, Attempt(number, 1.0, Fate.TAKEN, 204))
    with database.read() as connection:
        kept = list(connection.execute(sa.select(tables.webhook_deliveries.c.decision_id)).scalars())
    assert sorted(kept) == list(range(6, KEPT + 6))
    assert [one.decision_id for one in shown(database).deliveries] == list(range(KEPT + 5, KEPT + 5 - SHOWN, -1))


def test_status_without_a_webhook_waits_for_nobody(database: Database, decide: Decide) -> None:
    decide(2)
    found = webhook_status(database, receiver="", signed=False)
    assert (found.waiting, found.waiting_since, found.deliveries) == (0, None, ())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:word@hooks.example:8443/token?x=1", "https://hooks.example:8443"),
        ("http://hooks.example/T0KEN", "http://hooks.example"),
    ],
)
def test_shown_address_holds_no_secret(url: str, expected: str) -> None:
    assert shown_address(url) == expected
