"""What can go wrong with a job, each with a code and one sentence for the person who pushed the model."""

from typing import ClassVar

from server.errors import RegistryError


class JobError(RegistryError):
    """The job cannot be done; trying again would end the same way."""

    code: ClassVar[str] = "job_failed"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.wire_code = code or self.code
        """What the user sees: the code of the error that the job process named, or ours."""


class JobMemoryError(JobError):
    """The job process needed more memory than it may have."""

    code = "job_memory"


class JobTimeoutError(JobError):
    """The job process took longer than it may."""

    code = "job_timeout"


class JobCrashedError(JobError):
    """The job process was ended by a signal."""

    code = "job_crashed"


class BadResultError(JobError):
    """The job process ended well, but what it left does not fit."""

    code = "bad_result"


class WorkerLostError(JobError):
    """Several workers died with this job."""

    code = "worker_lost"


class LeaseLostError(RegistryError):
    """Another worker has this job now; nothing of ours counts any more."""

    code = "lease_lost"


class JobCancelledError(RegistryError):
    """Somebody cancelled the job while it was being done: it ends here and registers nothing."""

    code = "cancelled"


class StopRequestedError(RegistryError):
    """The worker was asked to stop; the job goes back to the queue."""

    code = "stopping"
    retryable: ClassVar[bool] = True
