"""The one error root of the registry: each error has a wire code for ever and says whether to try again."""

from typing import ClassVar


class RegistryError(Exception):
    """Anything the registry refuses or fails at; `str(error)` is one sentence that a user can act on."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class SettingsError(RegistryError):
    """The settings (file, environment or flags) say something that cannot be."""

    code = "bad_settings"


class StorageUnavailableError(RegistryError):
    """S3 does not answer, or answers that it cannot."""

    code = "storage_unavailable"
    retryable = True


class StorageRefusedError(RegistryError):
    """S3 answers, and refuses our keys or our request: waiting mends nothing."""

    code = "storage_refused"


class ObjectNotFoundError(RegistryError):
    """No object has this sha256."""

    code = "object_not_found"


class DigestMismatchError(RegistryError):
    """Bytes are not the ones that their sha256 promises; never retry this copy."""

    code = "digest_mismatch"

    def __init__(self, *, expected_sha256: str, actual_sha256: str) -> None:
        super().__init__(f"The bytes have sha256 {actual_sha256}, expected was {expected_sha256}.")
        self.expected_sha256 = expected_sha256
        self.actual_sha256 = actual_sha256


class BrokerUnavailableError(RegistryError):
    """The MQTT broker does not take more now: it is away, or slower than we publish."""

    code = "broker_unavailable"
    retryable = True


class DatabaseUnavailableError(RegistryError):
    """The database does not answer; nothing was changed."""

    code = "database_unavailable"
    retryable = True


class BusyError(RegistryError):
    """It does as much at once as it may; a little later it takes more."""

    code = "busy"
    retryable = True


class RateLimitedError(RegistryError):
    """More is asked for than is allowed in the time; later it is answered."""

    code = "rate_limited"
    retryable = True


class NotFoundError(RegistryError):
    """No such thing: the sentence names it."""

    code = "not_found"


class ConflictError(RegistryError):
    """It exists already, and differently."""

    code = "conflict"


class InvalidError(RegistryError):
    """What was sent does not fit; the sentence says what and what would."""

    code = "invalid"


class UnauthorizedError(RegistryError):
    """Who asks did not prove who they are: a key or a token that is wrong, used or expired."""

    code = "unauthorized"


class TooLargeError(RegistryError):
    """More bytes than are allowed; the sentence says how many are."""

    code = "too_large"
