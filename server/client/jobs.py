"""The routes of jobs, as methods of the client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from server.client.checking import checked
from server.client.errors import RegistryClientError
from server.client.outages import through_outages
from server.client.transport import given, segment
from server.schemas.catalogue import Job, JobCancellation, JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.client.transport import Transport

POLL_S: Final = 0.3
_JOB: Final = TypeAdapter(Job)
_JOBS: Final = TypeAdapter(list[Job])


class JobCalls:
    """A part of `RegistryClient`."""

    _transport: Transport

    def list_jobs(self, *, model: str | None = None, version: str | None = None, limit: int = 100) -> list[Job]:
        """The latest jobs, newest first."""
        parameters = given({"model": model, "version": version, "limit": limit})
        return self._transport.ask("GET", "/v1/jobs", params=parameters, answer=_JOBS)

    def get_job(self, job_id: str) -> Job:
        """One job."""
        return self._transport.ask("GET", _path(job_id), answer=_JOB)

    def cancel_job(self, job_id: str, *, cancelled_by: str = "") -> Job:
        """Have a job not done, or not done to its end; cancelling it again changes nothing.

        Args:
            job_id: of the job.
            cancelled_by: who says so, for those who wait for it.

        Returns:
            The job: `cancelled` at once where nobody worked on it; else `running` and `stopping` until its worker has
            stopped it, which takes seconds. One that ends in this moment may still be done.

        Raises:
            RegistryClientError: there is no such job (`not_found`), or it is done or has failed (`conflict`).
        """
        body = checked(JobCancellation, {"cancelled_by": cancelled_by}).model_dump(mode="json")
        return self._transport.ask("PUT", f"{_path(job_id)}/cancellation", json=body, answer=_JOB)

    def wait_for_job(
        self, job_id: str, *, timeout_s: float | None = None, progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait until a job is done; a registry that goes away in between for less than `OUTAGE_S` is waited for.

        Raises:
            RegistryClientError: the job failed (its own code and sentence), was cancelled (`cancelled`), or the time is
                over (`timeout`).
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        job = self.get_job(job_id)
        while True:
            if progress is not None:
                progress(job)
            if job.state is JobState.DONE:
                return job
            if job.state in {JobState.FAILED, JobState.CANCELLED}:
                code, message = (job.error.code, job.error.message) if job.error else ("failed", "The job failed.")
                raise RegistryClientError(code, message)
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise RegistryClientError("timeout", f"Job {job_id} is still {job.state} after {timeout_s:g} s.")
            time.sleep(POLL_S)
            job = through_outages(lambda: self.get_job(job_id))


def _path(job_id: str) -> str:
    return f"/v1/jobs/{segment(job_id, 'the job')}"
