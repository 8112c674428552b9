"""Tells decisions in a thread of its own: a receiver that is away or slow holds up nobody but itself."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from server.errors import RegistryError
from server.mqtt import Backoff
from server.webhook.cursor import move_on, next_notice, skip_older
from server.webhook.deliveries import Attempt, note
from server.webhook.receiver import ReceiverUnavailableError
from server.webhook.rules import KEPT_S, Fate, body_of, fate_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from server.database.connect import Database
    from server.schemas.rollouts import DecisionNotice
    from server.webhook.receiver import Receiver

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0


class Teller:
    """Between the table of decisions and the receiver. It keeps nothing that a restart would need."""

    def __init__(self, database: Database, receiver: Receiver, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._receiver = receiver
        self._clock = clock
        self._waits = False
        self._later: Attempt | None = None

    def tell_next(self) -> Fate | None:
        """Tell the first decision that was not told yet, and note it; None: there is none.

        Raises:
            DatabaseUnavailableError: what was told without being noted is told again.
        """
        notice = next_notice(self._database)
        if notice is not None and notice.at < self._clock() - KEPT_S:
            self._skip_older()
            notice = next_notice(self._database)
        if notice is None:
            return None
        attempt = self._tell(notice)
        if attempt.fate is Fate.LATER:
            self._later = attempt
            return attempt.fate
        with self._database.write() as connection:
            note(connection, attempt)
            move_on(connection, notice.id)
        return attempt.fate

    def note_pause(self, pause_s: float) -> None:
        """Write down that the last attempt came to nothing, and when the next comes.

        Raises:
            DatabaseUnavailableError: nothing was written; nothing but people depends on it.
        """
        attempt, self._later = self._later, None
        if attempt is not None:
            with self._database.write() as connection:
                note(connection, replace(attempt, next_try_at=self._clock() + pause_s))

    def _skip_older(self) -> None:
        with self._database.write() as connection:
            count, last = skip_older(connection, self._clock() - KEPT_S)
            if count:
                why = f"{count} up to this one were over a day old"
                note(connection, Attempt(last, self._clock(), Fate.SKIPPED, failure=why))
        if count:  # a former leader may have been at it, too
            log.warning("webhook: %d decisions are over a day old and are not told any more", count)

    def _tell(self, notice: DecisionNotice) -> Attempt:
        try:
            status = self._receiver.post(body_of(notice))
        except ReceiverUnavailableError as exc:
            self._note_wait(notice, str(exc))
            return Attempt(notice.id, self._clock(), Fate.LATER, failure=str(exc))
        fate = fate_of(status)
        said = "" if fate is Fate.TAKEN else f"it answers {status}"
        if fate is Fate.LATER:
            self._note_wait(notice, said)
            return Attempt(notice.id, self._clock(), fate, status, said)
        if fate is Fate.REFUSED:
            log.warning(
                "webhook: %s refuses decision %d with %d; it is not told again", self._receiver.name, notice.id, status
            )
        elif self._waits:
            log.info("webhook: %s takes decisions again", self._receiver.name)
        self._waits = False
        return Attempt(notice.id, self._clock(), fate, status, said)

    def _note_wait(self, notice: DecisionNotice, why: str) -> None:
        """Once for each time that it is away, not for each attempt."""
        if not self._waits:
            log.warning("webhook: decision %d and those after it wait for %s: %s", notice.id, self._receiver.name, why)
        self._waits = True


def keep_telling(
    teller: Teller,
    stop: threading.Event,
    *,
    is_due: Callable[[], bool],
    look_s: float = LOOK_S,
    backoff: Backoff | None = None,
) -> None:
    """Tell decisions until `stop` is set.

    Args:
        teller: what it tells, and to whom.
        stop: ends it.
        is_due: whether this process is the one to do it (it leads).
        look_s: how often it looks for new ones.
        backoff: pauses after failures.
    """
    backoff = backoff or Backoff(first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)
    pause_s = 0.0
    while not stop.wait(pause_s):
        pause_s = look_s
        if not is_due():
            continue
        try:
            fate = teller.tell_next()
        except RegistryError as exc:
            log.warning("webhook: %s", exc)
            fate = Fate.LATER
        except Exception:  # the top of the loop: rollouts go on without being told of
            log.exception("webhook: telling a decision failed")
            fate = Fate.LATER
        if fate is Fate.LATER:
            pause_s = backoff.next_s()
            _note_pause(teller, pause_s)
            continue
        backoff.reset()
        if fate is not None:
            pause_s = 0.0


def _note_pause(teller: Teller, pause_s: float) -> None:
    try:
        teller.note_pause(pause_s)
    except RegistryError as exc:
        log.warning("webhook: %s", exc)
