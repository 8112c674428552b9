"""Keeps a claim alive from a thread of its own, so that a long upload or a busy job process costs nobody the job."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from server.database.connect import Database
from server.errors import DatabaseUnavailableError
from server.jobs.claims import Claim, is_unwanted, renew
from server.jobs.errors import JobCancelledError, LeaseLostError, StopRequestedError

LEASE_S: Final = 30.0
RENEW_EVERY_S: Final = 5.0
PROGRESS_EVERY_S: Final = 1.0
STAGE_CHARACTERS: Final = 64


class Lease:
    """A claim while it is worked on. `check` is asked often, and raises when the work must end."""

    def __init__(
        self,
        database: Database,
        claim: Claim,
        *,
        stop: threading.Event,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.time,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._claim = claim
        self._stop = stop
        self._lease_s = lease_s
        self._clock = clock
        self._pulse = pulse
        self._held_until_s = time.monotonic() + lease_s
        self._progress: dict[str, Any] | None = None
        self._front: list[dict[str, Any]] = []
        self._lost = False
        self._cancelled = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def report(self, stage: str, done: int, of: int, front: Sequence[dict[str, Any]] = ()) -> None:
        """Say how far the job is, and what a search has found so far, if that is news; written within a second."""
        self._front = list(front) or self._front
        told = {"front": self._front} if self._front else {}
        self._progress = {"stage": stage[:STAGE_CHARACTERS], "done": max(0, done), "of": max(0, of), **told}

    def check(self) -> None:
        """Look whether to go on.

        Raises:
            LeaseLostError: another worker may have the job.
            JobCancelledError: somebody cancelled the job.
            StopRequestedError: this worker shall end.
        """
        if self._lost or time.monotonic() > self._held_until_s:
            raise LeaseLostError(f"Job {self._claim.job_id} belongs to another worker now.")
        if self._cancelled:
            raise JobCancelledError(f"Job {self._claim.job_id} was cancelled.")
        if self._stop.is_set():
            raise StopRequestedError("The worker was asked to stop.")

    def _keep(self) -> None:
        renewed_s, written = time.monotonic(), None
        while not self._done.wait(PROGRESS_EVERY_S):
            self._pulse()  # a job has a time limit of its own
            self._look_for_cancellation()
            progress = self._progress
            now_s = time.monotonic()
            if progress == written and now_s - renewed_s < min(RENEW_EVERY_S, self._lease_s / 4):
                continue
            try:
                renew(self._database, self._claim, until=self._clock() + self._lease_s, progress=progress)
            except LeaseLostError:
                self._lost = True
                return
            except DatabaseUnavailableError:
                continue  # tried again in a second; `check` ends the work when the lease is over
            renewed_s, written = now_s, progress
            self._held_until_s = now_s + self._lease_s

    def _look_for_cancellation(self) -> None:
        try:
            self._cancelled = self._cancelled or is_unwanted(self._database, self._claim)
        except DatabaseUnavailableError:
            return  # asked again in a second
