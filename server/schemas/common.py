"""What several documents share."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """A document that the registry sends; an unknown field is ignored, so that a client may be one version older."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class RequestDocument(BaseModel):
    """A document that a client sends; an unknown field is a spelling mistake and is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorBody(Document):
    """What went wrong: `code` for programs, `message` is one sentence for people, with what to do."""

    code: str
    message: str


class ErrorDocument(Document):
    """The body of every answer that is not a success."""

    error: ErrorBody


class Verdict(StrEnum):
    """How a variant stands against a profile's limits."""

    FITS = "fits"
    UNPROVEN = "unproven"  # all that is known fits; latency or memory on this CPU, or all of an NPU, is not known
    MISSES = "misses"
    UNMEASURED = "unmeasured"  # it could not be run on this runtime


class Origin(StrEnum):
    """How a figure was obtained."""

    DEVICE = "device"
    HOST = "host"
    PREDICTED = "predicted"


ComputeDevice = Literal["cpu", "cuda", "auto"]  # where steps of a recipe train


class Figure(Document):
    """A number that says where it comes from. `low` and `high` are a 95 % confidence interval where there is one."""

    value: float
    origin: Origin
    low: float | None = None
    high: float | None = None
    device_variants: int | None = None  # that calibrate a prediction, measured by devices; None: published figures do


class Health(Document):
    """Whether the registry works: its own processes, and what it stands on."""

    status: str  # ok | degraded
    version: str
    database: str  # ok | a sentence
    objects: str
    broker: str
    processes: dict[str, str] = {}  # by kind: ok | a sentence
