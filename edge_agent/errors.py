"""The root of every error that the agent raises on purpose, and those that several of its parts share."""

from __future__ import annotations

from typing import ClassVar


class EdgeAgentError(Exception):
    """Something the agent can name: `code` goes on the wire, the text is one sentence for people."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False


class DigestMismatchError(EdgeAgentError):
    """The publisher's fault: never retry this digest, keep what runs."""

    code = "digest_mismatch"

    def __init__(self, *, expected_sha256: str, actual_sha256: str) -> None:
        super().__init__(f"sha256 is {actual_sha256}, manifest says {expected_sha256}")


class RuntimeMissingError(EdgeAgentError):
    """The inference runtime that a variant needs is not installed in this Python."""

    code = "runtime_missing"


class ModelLoadError(EdgeAgentError):
    """The runtime refuses the file: it can't run here, and trying again will not help."""

    code = "load_failed"


class ModelLoadUnexplainedError(ModelLoadError):
    """The runtime failed without a word: so it does when an allocation fails."""


class ModelInvokeError(EdgeAgentError):
    """The runtime failed while it ran a model that it had loaded."""

    code = "invoke_failed"


class ModelNotActiveError(EdgeAgentError):
    """Nobody has an active variant of the model that was asked for."""

    code = "not_active"
