"""Telemetry windows: latency sketches and counts of one variant over some seconds, then a report. No IO, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from edge_agent.protocol.messages import TelemetryReport
from edge_agent.protocol.sketch import new_sketch, to_wire
from edge_agent.runner.journal import UNSPOOLED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddsketch.ddsketch import BaseDDSketch

    from edge_agent.protocol.manifest import VariantManifest

KIND_LIMIT = 32  # of the wire format


class Written(Protocol):
    """What outlives the process: told of everything that is counted (see `journal`)."""

    def observed(self, *, samples: int, queue_ms: float, preprocess_ms: float, invoke_ms: float) -> None:
        """A request was answered."""

    def failed(self, errors: Mapping[str, int], *, requests: int) -> None:
        """Errors of the window so far, and how many requests more they make."""


class WindowMeter:
    """Counts what one variant answers. Not thread-safe."""

    def __init__(
        self,
        manifest: VariantManifest,
        *,
        deployment_id: str,
        source: Literal["http", "inprocess"],
        now_s: float,
        unix_s: float,
        journal: Written | None = None,
    ) -> None:
        self._journal = journal
        self._manifest, self._deployment_id, self._source = manifest, deployment_id, source
        self.inferences = 0  # samples, of every window
        self._begin(now_s, unix_s)

    def _begin(self, now_s: float, unix_s: float) -> None:
        self._began_s, self._began_unix_s = now_s, unix_s
        self._requests = 0
        self._samples = 0
        self._errors: dict[str, int] = {}
        self._queue: BaseDDSketch = new_sketch()
        self._preprocess: BaseDDSketch = new_sketch()
        self._invoke: BaseDDSketch = new_sketch()

    def observe(self, *, samples: int, queue_ms: float, preprocess_ms: float, invoke_ms: float) -> None:
        """A request was answered."""
        self._requests += 1
        self._samples += samples
        self.inferences += samples
        self._queue.add(queue_ms)
        self._preprocess.add(preprocess_ms)
        self._invoke.add(invoke_ms)
        if self._journal is not None:
            self._journal.observed(samples=samples, queue_ms=queue_ms, preprocess_ms=preprocess_ms, invoke_ms=invoke_ms)

    def fail(self, kind: str) -> None:
        """A request was refused or failed."""
        self._requests += 1
        self._add_error(kind, requests=1)

    def note(self, kind: str) -> None:
        """Something to count about a request that is counted already."""
        self._add_error(kind, requests=0)

    def _add_error(self, kind: str, *, requests: int) -> None:
        if kind in self._errors or len(self._errors) < KIND_LIMIT:
            self._errors[kind] = self._errors.get(kind, 0) + 1
        if self._journal is not None:
            self._journal.failed(self._errors, requests=requests)

    def cut(self, *, now_s: float, unix_s: float, rss_bytes: int) -> TelemetryReport | None:
        """End the window and begin the next; None when nothing happened in it."""
        report = None
        if self._requests:
            report = TelemetryReport(
                spool_id=UNSPOOLED,
                sequence=0,
                model=self._manifest.model,
                version=self._manifest.version,
                variant_id=self._manifest.variant_id,
                deployment_id=self._deployment_id,
                window_start=max(0.0, self._began_unix_s),
                window_s=max(0.0, now_s - self._began_s),
                source=self._source,
                requests=self._requests,
                inferences=self._samples,
                errors=dict(self._errors),
                queue=to_wire(self._queue),
                preprocess=to_wire(self._preprocess),
                invoke=to_wire(self._invoke),
                rss_bytes=rss_bytes,
            )
        self._begin(now_s, unix_s)
        return report
