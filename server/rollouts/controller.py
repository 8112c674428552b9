"""The controller: reads, lets the rules decide, writes all of it in one transaction under the lease, then rings.

Killed at any moment it has either written a tick whole or not at all, and the next tick starts from the tables.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.errors import BrokerUnavailableError, DatabaseUnavailableError
from server.rollouts import lease
from server.rollouts.engine import advance
from server.rollouts.lease import LeaseLostError
from server.rollouts.quiet import Quiet
from server.rollouts.writing import Intervals, mark_published, save

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    import sqlalchemy as sa

    from server.database.connect import Database
    from server.rollouts.doorbell import Doorbell
    from server.rollouts.manifests import ManifestFiles
    from server.rollouts.reading import Reader, Snapshot

log = logging.getLogger(__name__)

# A tick of a large fleet takes long: rest four times as long, so that deciding never takes more than a fifth of a core.
REST_FACTOR = 4.0
# What is decided is published meanwhile: devices are told in batches, and thousands of them must not wait for ticks.
RING_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """How often it looks, and how long it leads without showing that it lives."""

    interval_s: float = 0.5
    lease_s: float = 5.0
    patrol_s: float = 10.0
    """How often it looks at the whole fleet where no rollout is open."""


class Controller:
    """One of possibly several; the one that holds the lease decides."""

    def __init__(
        self,
        database: Database,
        *,
        reader: Reader,
        manifests: ManifestFiles,
        doorbell: Doorbell,
        intervals: Intervals,
        holder: str,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._reader = reader
        self._manifests = manifests
        self._doorbell = doorbell
        self._intervals = intervals
        self._holder = holder
        self._pace = pace or Pace()
        self._clock = clock
        self._quiet = Quiet(patrol_s=self._pace.patrol_s)
        self._term: int | None = None
        self._until = 0.0

    @property
    def leads(self) -> bool:
        """Whether it held the lease when it last looked."""
        return self._term is not None

    def run(self, stop: threading.Event, *, pulse: Callable[[], None] = lambda: None) -> None:
        """Tick until `stop` is set, then give the lease back; `pulse` is called before each tick."""
        while not stop.is_set():
            pulse()
            began = time.monotonic()
            self._guarded(self.tick)
            self._rest(began + max(self._pace.interval_s, (1.0 + REST_FACTOR) * (time.monotonic() - began)), stop)
        self.resign()

    def _rest(self, until_s: float, stop: threading.Event) -> None:
        """Decide nothing until then, but go on telling what is decided, and show that this controller lives."""
        while (left_s := until_s - time.monotonic()) > 0.0:
            pause_s = RING_EVERY_S if self._doorbell.is_busy else self._pace.lease_s / 4
            if stop.wait(min(left_s, pause_s)):
                return
            if self.leads and time.monotonic() < until_s:
                self._guarded(self.tell)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (DatabaseUnavailableError, BrokerUnavailableError) as exc:
            log.warning("%s", exc)
        except LeaseLostError as exc:
            log.warning("%s", exc)
            self._term = None
        except Exception:  # the top of the loop: one bad tick must not end the registry's only decider
            log.exception("a tick failed; nothing of it was written")

    def tell(self) -> None:
        """Publish what is decided and was not published yet, note what the broker has acknowledged, keep the lease.

        Raises:
            LeaseLostError: another controller leads.
            DatabaseUnavailableError: nothing was written; what was acknowledged is published again.
        """
        acknowledged = self._doorbell.take_acknowledged()
        if acknowledged or self._is_half_over():
            self._write(acknowledged, changed=False)
        with self._database.read() as connection:
            self._doorbell.ring(connection)

    def tick(self) -> None:
        """Look once, and do what is due.

        Raises:
            LeaseLostError: another controller leads; nothing was written.
            DatabaseUnavailableError: nothing was written.
        """
        if self._term is None and not self._take_over():
            return
        with self._database.read() as connection:
            quiet = self._quiet.holds(connection, now=self._clock())
            snapshot = None if quiet else self._decide(connection)
        news = self._manifests.fetch(snapshot.manifests, now=self._clock()) if snapshot else False
        acknowledged = self._doorbell.take_acknowledged()
        changed = news or (snapshot is not None and snapshot.ledger.changed)
        if acknowledged or changed or self._is_half_over():
            self._write(acknowledged, changed=changed)
        if snapshot is not None and not changed:
            self._quiet.rest(now=self._clock())
        with self._database.read() as connection:
            self._doorbell.ring(connection)

    def resign(self) -> None:
        """Let another controller lead at once."""
        if self._term is None:
            return
        try:
            with self._database.write() as connection:
                lease.release(connection, holder=self._holder, term=self._term)
        except DatabaseUnavailableError as exc:
            log.warning("the lease runs out by itself: %s", exc)
        self._term = None

    def _is_half_over(self) -> bool:
        """Whether it is time to prolong the lease."""
        return self._clock() > self._until - self._pace.lease_s / 2

    def _take_over(self) -> bool:
        now = self._clock()
        with self._database.read() as connection:
            holder, until = lease.leader_until(connection)
        if holder != self._holder and now < until <= now + 10 * self._pace.lease_s:
            return False
        with self._database.write() as connection:
            self._term = lease.acquire(connection, holder=self._holder, now=now, lease_s=self._pace.lease_s)
        if self._term is None:
            return False
        self._until = now + self._pace.lease_s
        log.info("leads from now on, term %d", self._term)
        return True

    def _write(self, acknowledged: dict[str, int], *, changed: bool) -> None:
        """Prolong the lease, and decide again inside the transaction that proves it: what was read before may be old.

        Where nothing has changed nothing is read again: that would hold the write lock for as long as a fleet is large.
        """
        now = self._clock()
        if self._term is None:
            return
        with self._database.write() as connection:
            lease.check(connection, holder=self._holder, term=self._term, now=now, lease_s=self._pace.lease_s)
            if acknowledged:
                mark_published(connection, acknowledged)
            snapshot = self._decide(connection) if changed else None
            if snapshot is not None:
                save(connection, snapshot.ledger, self._intervals, epoch=snapshot.epoch, now=now)
        self._until = now + self._pace.lease_s
        for decision in snapshot.ledger.decisions if snapshot else ():
            log.info("rollout %s: %s", decision.rollout_id, decision.sentence)

    def _decide(self, connection: sa.Connection) -> Snapshot | None:
        snapshot = self._reader.snapshot(connection)
        if snapshot is not None:
            now = self._clock()
            for facts in snapshot.facts:
                advance(facts, snapshot.ledger, epoch=snapshot.epoch, now=now)
        return snapshot
