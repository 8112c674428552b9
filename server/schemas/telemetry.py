"""Telemetry as operators ask for it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from server.schemas.common import Document


class GroupBy(StrEnum):
    """What telemetry can be grouped by."""

    DEVICE = "device"
    PROFILE = "profile"
    MODEL = "model"
    VERSION = "version"
    VARIANT = "variant"


class LatencySummary(Document):
    """Quantiles in milliseconds from merged sketches, within their relative accuracy of 1 %."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


class TelemetryRow(Document):
    """One group."""

    group: dict[GroupBy, str]
    reports: int
    devices: int
    requests: int
    inferences: int
    errors: dict[str, int] = Field(default_factory=dict)
    queue: LatencySummary = LatencySummary()
    preprocess: LatencySummary = LatencySummary()
    invoke: LatencySummary = LatencySummary()
    rss_max_bytes: int = 0
    temperature_max_c: float | None = None
    throttled: int = 0
    dropped_reports: int = 0
    since: float | None = None
    until: float | None = None
