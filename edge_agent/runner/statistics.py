"""What was answered since the runner began to serve, in the form of Triton's statistics extension."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BATCH_KINDS = 64  # distinct batch sizes that are kept apart

Duration = tuple[float, float, float, float]  # queue, input, infer, output in ms


@dataclass(slots=True)
class Total:
    """How many, and how long together."""

    count: int = 0
    ns: int = 0

    def add(self, ms: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += int(ms * 1e6)

    def document(self) -> dict[str, int]:
        """The JSON form."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class BatchTotals:
    """The three phases of one batch size."""

    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)

    def add(self, durations: Duration) -> None:
        """Count one request."""
        self.compute_input.add(durations[1])
        self.compute_infer.add(durations[2])
        self.compute_output.add(durations[3])

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "compute_input": self.compute_input.document(),
            "compute_infer": self.compute_infer.document(),
            "compute_output": self.compute_output.document(),
        }


@dataclass(slots=True)
class Statistics:
    """Totals of one model."""

    inferences: int = 0
    last_unix_s: float = 0.0
    success: Total = field(default_factory=Total)
    failure: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute: BatchTotals = field(default_factory=BatchTotals)
    batches: dict[int, BatchTotals] = field(default_factory=dict)

    def succeed(self, *, samples: int, durations: Duration, unix_s: float) -> None:
        """A request was answered."""
        self.inferences += samples
        self.last_unix_s = unix_s
        self.success.add(sum(durations))
        self.queue.add(durations[0])
        self.compute.add(durations)
        batch = self.batches.get(samples)
        if batch is None:
            if len(self.batches) >= BATCH_KINDS:
                return
            batch = self.batches[samples] = BatchTotals()
        batch.add(durations)

    def fail(self, ms: float) -> None:
        """A request was refused or failed."""
        self.failure.add(ms)

    def document(self, *, model: str, version: str) -> dict[str, Any]:
        """One element of `model_stats`."""
        return {
            "name": model,
            "version": version,
            "last_inference": int(self.last_unix_s * 1000),
            "inference_count": self.inferences,
            "execution_count": self.success.count,
            "inference_stats": {
                "success": self.success.document(),
                "fail": self.failure.document(),
                "queue": self.queue.document(),
                **self.compute.document(),
                "cache_hit": Total().document(),
                "cache_miss": Total().document(),
            },
            "batch_stats": [{"batch_size": size, **totals.document()} for size, totals in sorted(self.batches.items())],
        }
