"""Two variants' answers to the same requests: how often they agree, how far apart they are, how long each took.

Pure.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

from edge_agent.protocol.shadow import OutputAgreement, ShadowReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.protocol.shadow import ShadowPlan
    from edge_agent.protocol.signature import ModelSignature
    from edge_agent.runtimes.base import Array

SCORE_DIMENSIONS: Final = 2  # (rows, classes)


class Comparison:
    """Counts samples; one agrees when every output of it does.

    What that means depends on the output:
    - integers and booleans are labels: all must be equal;
    - floats of shape (rows, two or more), where the plan says that they are scores: the highest is the same class;
    - other floats are numbers: the mean of |shadow - active| over the sample's values is at most `tolerance` times the
      range of the active one's values, over all samples, with zero in it. So one sample has a range, too.

    A sample to which the active one answered with NaN or infinity is not compared; a shadow that does so fails it.
    """

    def __init__(self, signature: ModelSignature, plan: ShadowPlan) -> None:
        self._plan = plan
        self._outputs = {spec.name: _Output() for spec in signature.outputs}
        self._active_ms, self._shadow_ms = array("d"), array("d")
        self.samples = self.errors = 0

    @property
    def complete(self) -> bool:
        """Whether as much was compared as the plan asks for."""
        return self.samples >= self._plan.samples

    def fail(self) -> None:
        """The shadow gave no answer to a request."""
        self.errors += 1

    def add(
        self, active: Mapping[str, Array], shadow: Mapping[str, Array], *, rows: int, active_ms: float, shadow_ms: float
    ) -> None:
        """Compare one request.

        Args:
            active: by output, as the client got it.
            shadow: the same of the shadow.
            rows: samples in it.
            active_ms: how long the active one's invocation took.
            shadow_ms: the same of the shadow's.
        """
        if any(len(values) != rows for values in map(np.atleast_1d, active.values())):
            rows = 1  # an output that is not of one row for each sample: the request is compared as a whole
        told = {name: active[name].reshape(rows, -1) for name in self._outputs}
        found = {name: shadow[name].reshape(rows, -1) for name in self._outputs}
        usable = np.logical_and.reduce([_finite(values) for values in told.values()])
        if not all(_finite(values)[usable].all() for values in found.values()):
            self.fail()
            return
        room = self._plan.samples - self.samples
        kept = np.flatnonzero(usable)[:room]
        if not len(kept):
            return
        self.samples += len(kept)
        self._active_ms.append(active_ms)
        self._shadow_ms.append(shadow_ms)
        for name, output in self._outputs.items():
            scores = self._plan.scores and active[name].ndim == SCORE_DIMENSIONS
            output.add(told[name][kept], found[name][kept], scores=scores)

    def report(self) -> ShadowReport:
        """What is known so far."""
        agreed = [output.agreed(self._plan.tolerance) for output in self._outputs.values()]
        together = np.logical_and.reduce(agreed) if self.samples else np.zeros(0, bool)
        active_ms, shadow_ms = (_quantiles(values) for values in (self._active_ms, self._shadow_ms))
        return ShadowReport(
            samples=self.samples,
            agreed=int(together.sum()),
            errors=self.errors,
            outputs=tuple(
                output.document(name, int(of.sum()))
                for (name, output), of in zip(self._outputs.items(), agreed, strict=True)
            ),
            active_p50_ms=active_ms[0],
            active_p95_ms=active_ms[1],
            p50_ms=shadow_ms[0],
            p95_ms=shadow_ms[1],
        )


class _Output:
    """One output: for each sample how far it is off, in its own units; 0 or infinity where that is yes or no."""

    def __init__(self) -> None:
        self._off = array("d")
        self._low = self._high = 0.0  # zero is in every range
        self._sum = self._largest = 0.0
        self._values = 0

    def add(self, active: Array, shadow: Array, *, scores: bool) -> None:
        if active.dtype.kind != "f":
            self._off.extend(np.where((active == shadow).all(axis=1), 0.0, np.inf))
            return
        told, found = active.astype(np.float64), shadow.astype(np.float64)
        difference = np.abs(found - told)
        self._low, self._high = min(self._low, float(told.min())), max(self._high, float(told.max()))
        self._sum += float(difference.sum())
        self._largest = max(self._largest, float(difference.max()))
        self._values += difference.size
        if scores and told.shape[1] > 1:
            self._off.extend(np.where(told.argmax(axis=1) == found.argmax(axis=1), 0.0, np.inf))
        else:
            self._off.extend(difference.mean(axis=1))

    def agreed(self, tolerance: float) -> Array:
        """One flag for each sample; what is no number is off by 0 or by infinity, whatever the range."""
        off: Array = np.array(self._off, np.float64)
        return off <= tolerance * (self._high - self._low)

    def document(self, name: str, agreed: int) -> OutputAgreement:
        span = self._high - self._low
        if not self._values or not self._largest:
            return OutputAgreement(name=name, agreed=agreed)
        span = span or self._largest  # the active one only ever says 0: the shadow's own values are the measure
        mean, largest = self._sum / self._values / span, self._largest / span
        return OutputAgreement(name=name, agreed=agreed, mean_difference=mean, largest_difference=largest)


def _finite(values: Array) -> Array:
    """One flag for each row."""
    if values.dtype.kind != "f":
        return np.ones(len(values), bool)
    flags: Array = np.logical_and.reduce(np.isfinite(values), axis=1)
    return flags


def _quantiles(values: array[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    p50, p95 = np.percentile(np.array(values, np.float64), (50, 95))
    return float(p50), float(p95)
