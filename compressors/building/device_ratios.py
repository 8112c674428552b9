"""How much slower a profile's devices run a file than this host: from variants that both have measured. Pure.

A ratio is a device's p95 over the host's median of the same file: the median, because a busy host moves its p95 most.
Each variant weighs the same, however many devices run it. A ratio belongs to one runtime, delegate and kind of numbers,
and to this host's CPU: what a worker with another one measured, or one whose CPU nobody can name, is left out.

With the log ratios x of n variants a prediction is the host's median times exp(median(x)). Its interval is that times
exp(+-h), h = max(2 sigma sqrt(1 + pi / (2 n)), ln 1.1), sigma^2 = (2 prior^2 + (n - 1) s^2) / (n + 1): the spread of
one more variant, and of the median, whose variance is pi / 2 times that of a mean. s = 1.4826 MAD is drawn towards what
other networks were published to differ by (1.5 times, read as two deviations) with the weight of two variants.

Source: Rousseeuw and Croux 1993, JASA 88 (MAD); Gelman et al., Bayesian Data Analysis, 3rd ed., 2.6 (the prior).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from edge_agent.protocol.profile import Delegate, Numbers, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from compressors.contract import DeviceFigure

SPREAD = 1.5  # times, either way: how far another network was published to be off
PRIOR, PRIOR_WEIGHT = math.log(SPREAD) / 2, 2
NARROWEST = math.log(1.1)  # within 10 % a host says nothing about another core
DEVIATION_OF_MAD = 1.4826
BELIEVABLE = (1 / 50, 2_000.0)  # a Raspberry Pi Zero is published as 272 times slower than an x86 core was measured
COMPUTED_WITH = {"export-litert": Numbers.FLOAT32, "weight-only": Numbers.FLOAT32, "static-int8": Numbers.INT8}


class Kind(NamedTuple):
    """What must be the same for one variant to say something of another."""

    runtime: RuntimeName
    delegate: Delegate
    computes: str  # a `Numbers`, or the last step where that says no more


@dataclass(frozen=True)
class DeviceRatio:
    """Device p95 over host median, within which factors another variant may lie, and of how many variants."""

    value: float
    low: float
    high: float
    variants: int


def kind_of(runtime: RuntimeName, delegate: Delegate, last_step: str) -> Kind:
    """The kind of a file, by what it runs on and by the last step of its recipe."""
    return Kind(runtime, delegate, str(COMPUTED_WITH.get(last_step, last_step)))


def device_ratios(
    figures: Iterable[DeviceFigure], profile: str, *, host_cpu_model: str | None
) -> dict[Kind, DeviceRatio]:
    """The ratio of each kind that devices of a profile have measured; what can't be true is left out.

    Args:
        figures: of devices, each with what a host measured with the same file.
        profile: of the devices.
        host_cpu_model: of the machine that the ratios are for; None: it is not known, and there are none.
    """
    of_variant: dict[Kind, dict[str, list[float]]] = {}
    for one in figures:
        host = one.host
        if one.profile != profile or host is None or host.cpu_model != host_cpu_model:
            continue
        if not _is_believable(one.p95_ms, host.p50_ms):
            continue
        kind = kind_of(host.runtime, host.delegate, host.last_step)
        of_variant.setdefault(kind, {}).setdefault(one.variant_id, []).append(math.log(one.p95_ms / host.p50_ms))
    return {kind: _ratio([median(logs) for logs in found.values()]) for kind, found in of_variant.items()}


def _is_believable(device_ms: float, host_ms: float) -> bool:
    if not (math.isfinite(device_ms) and math.isfinite(host_ms) and device_ms > 0 and host_ms > 0):
        return False
    return BELIEVABLE[0] <= device_ms / host_ms <= BELIEVABLE[1]


def _ratio(logs: list[float]) -> DeviceRatio:
    n, middle = len(logs), median(logs)
    spread = DEVIATION_OF_MAD * median(abs(one - middle) for one in logs)
    variance = (PRIOR_WEIGHT * PRIOR**2 + (n - 1) * spread**2) / (PRIOR_WEIGHT + n - 1)
    half = max(2 * math.sqrt(variance * (1 + math.pi / (2 * n))), NARROWEST)
    return DeviceRatio(math.exp(middle), math.exp(middle - half), math.exp(middle + half), n)
