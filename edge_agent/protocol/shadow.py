"""A shadow: a new variant runs beside the active one on copies of real requests, and answers nobody.

What the registry asks for (`ShadowPlan`), and what a device found (`ShadowReport`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from edge_agent.protocol.base import Count, Detail, Milliseconds, Seconds, Wire

MAX_SAMPLES = 10_000

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ShadowPlan(Wire):
    """How long a shadow runs, what it may cost, and what it must show."""

    deadline_s: Annotated[Seconds, Field(gt=0)]  # it ends then, or with `samples`
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 200
    cpu_share: Annotated[float, Field(ge=0.01, le=1)] = 0.2  # of one core, on average
    least_agreement: Annotated[float, Field(gt=0, le=1)] = 0.98  # share of the samples
    tolerance: Share = 0.05  # difference of numbers that still agree, as a share of the active one's range
    scores: bool = False  # a row of several floats holds scores of classes: compared by the highest
    hold: bool = False  # with too few samples at the deadline go on as a shadow; else activate and say so


class ShadowOutcome(StrEnum):
    """How a shadow ended; wire strings."""

    RUNNING = "running"
    AGREED = "agreed"
    DISAGREED = "disagreed"
    FAILED = "failed"  # it could not answer what the active one answered
    INCONCLUSIVE = "inconclusive"  # too little was compared to say anything
    SKIPPED = "skipped"  # it never ran as a shadow; the detail says why


class OutputAgreement(Wire):
    """One output over all samples.

    `agreed`: samples with the same highest score, equal labels, or numbers that differ within the tolerance.
    `mean_difference`, `largest_difference`: of floats, |shadow - active| over all values, divided by the range of the
    active one's values with zero in it (as a quantizer takes a range); 0 where every value is 0 in both.
    """

    name: Annotated[str, Field(max_length=128)]
    agreed: Count = 0
    mean_difference: Ratio = 0.0
    largest_difference: Ratio = 0.0


class ShadowReport(Wire):
    """What was compared. The latencies are of the invocation alone, both on the same requests."""

    outcome: ShadowOutcome = ShadowOutcome.RUNNING
    detail: Detail = ""
    requests: Count = 0  # that the active one answered meanwhile
    sampled: Count = 0  # of these were copied to the shadow
    too_large: Count = 0  # of these were not copied because of their size
    samples: Count = 0  # compared; a request may bring several
    agreed: Count = 0  # of these in every output
    errors: Count = 0  # sampled requests to which the shadow gave no finite answer
    outputs: Annotated[tuple[OutputAgreement, ...], Field(max_length=64)] = ()
    active_p50_ms: Milliseconds = 0.0
    active_p95_ms: Milliseconds = 0.0
    p50_ms: Milliseconds = 0.0
    p95_ms: Milliseconds = 0.0
    cpu_s: Seconds = 0.0
    elapsed_s: Seconds = 0.0

    @property
    def agreement(self) -> float | None:
        """Share of the samples; None before the first."""
        return self.agreed / self.samples if self.samples else None
