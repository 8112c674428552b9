"""The worker loop: claim, do, claim again. SIGTERM ends it within seconds and gives the job back."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from server.database.connect import Database
from server.errors import DatabaseUnavailableError
from server.jobs import claims
from server.jobs.errors import JobCancelledError, LeaseLostError, StopRequestedError
from server.jobs.lease import LEASE_S, Lease
from server.jobs.runner import JobRunner

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5
OUTAGE_PAUSE_S: Final = 2.0


class Worker:
    """Does one job after the other, in the calling (main) thread."""

    def __init__(
        self,
        catalogue: Database,
        runner: JobRunner,
        *,
        name: str,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.time,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        """`pulse` is called often while it waits for a job, and while it does one."""
        self._catalogue = catalogue
        self._runner = runner
        self._name = name
        self._lease_s = lease_s
        self._clock = clock
        self._pulse = pulse

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            self._pulse()
            try:
                found = self.run_one(stop)
            except DatabaseUnavailableError as exc:
                log.warning("Waiting for the database: %s", exc)
                stop.wait(OUTAGE_PAUSE_S)
                continue
            if not found:
                stop.wait(LOOK_EVERY_S)

    def run_one(self, stop: threading.Event) -> bool:
        """Do the next job; False: there was none.

        Raises:
            DatabaseUnavailableError: the database does not answer; a claimed job is taken again when its lease ends.
        """
        claim = claims.claim(self._catalogue, worker=self._name, now=self._clock(), lease_s=self._lease_s)
        if claim is None:
            return False
        log.info("Job %s: %s %s %s, attempt %d", claim.job_id, claim.kind, claim.model, claim.version, claim.attempt)
        try:
            with Lease(
                self._catalogue, claim, stop=stop, lease_s=self._lease_s, clock=self._clock, pulse=self._pulse
            ) as lease:
                self._runner.run(claim, lease)
        except StopRequestedError:
            self._hand_over(claim, "given back", claims.give_back)
        except JobCancelledError:
            self._hand_over(claim, "cancelled", partial(claims.end_cancelled, now=self._clock()))
        except LeaseLostError as exc:
            log.warning("%s", exc)
        else:
            log.info("Job %s: ended", claim.job_id)
        return True

    def _hand_over(self, claim: claims.Claim, said: str, act: Callable[[Database, claims.Claim], None]) -> None:
        try:
            act(self._catalogue, claim)
        except LeaseLostError as exc:
            log.warning("%s", exc)
        else:
            log.info("Job %s: %s", claim.job_id, said)
