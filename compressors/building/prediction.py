"""Latency on a CPU that is not at hand: what is measured here, times how much slower devices of that kind are.

What its devices measured goes first (`device_ratios`). Else the ratio is a published latency of a known network over
its latency here, of the same numbers (float32 or int8), with the same threads, on XNNPACK. Another network may be off
by `SPREAD`: by its multiplications MobileNetV1 should take 1.9 times as long as V2, and on a Raspberry Pi 4 it is
published with 1.67 times in float32 and 1.41 times in int8. For what was published for neither, the interval covers
both ratios.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressors.building.device_ratios import COMPUTED_WITH, SPREAD, device_ratios, kind_of
from compressors.building.kitchen import Kitchen
from compressors.contract import Figure, Origin, Recipe, StepSpec, Task
from compressors.data.evaluation_rows import Split
from compressors.files.formats import Target
from compressors.inputs.program import FloatModel
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Failure, Rig
from compressors.measuring.scoring import score
from compressors.metrics import METRICS
from compressors.step import Context
from compressors.students import Architecture, build
from edge_agent.protocol.profile import Benchmark, Delegate, FileFormat, Numbers, RuntimeName
from edge_agent.protocol.signature import ModelSignature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from compressors.building.device_ratios import DeviceRatio, Kind
    from compressors.contract import DeviceFigure
    from edge_agent.protocol.profile import DeviceProfile
    from edge_agent.runtimes.measure import MeasureResult

ROWS, SEED = 16, 0  # of noise, which calibrates well enough to be fast
SIGNATURE = ModelSignature(
    inputs=(TensorSpec(name="picture", shape=(-1, 3, 224, 224)),),
    outputs=(TensorSpec(name="classes", shape=(-1, 1000)),),
)
NETWORKS = {Benchmark.MOBILENET_V2: Architecture.MOBILENET_V2}
RECIPES = {
    Numbers.FLOAT32: Recipe(name="float32", steps=(StepSpec(step="export-litert"),)),
    Numbers.INT8: Recipe(
        name="int8",
        steps=(StepSpec(step="export-litert"), StepSpec(step="static-int8", parameters={"calibration": "min-max"})),
    ),
}


@dataclass(frozen=True)
class Predictor:
    """Ratios of one profile; without any it predicts nothing."""

    ratios: Mapping[RuntimeName, Mapping[Numbers, float]] = field(default_factory=dict)  # from published figures
    devices: Mapping[Kind, DeviceRatio] = field(default_factory=dict)

    def p95_ms(self, target: Target, last_step: str, host: MeasureResult) -> Figure | None:
        """The 95th percentile on the profile's CPU, with the interval that it may lie in.

        Args:
            target: what the file was run on here.
            last_step: of its recipe; it decides what the file computes with.
            host: as measured here.
        """
        measured = None if target.npu else self.devices.get(kind_of(target.runtime, target.delegate, last_step))
        if measured is not None and host.p50_ms > 0:
            return Figure(
                value=host.p50_ms * measured.value,
                low=host.p50_ms * measured.low,
                high=host.p50_ms * measured.high,
                origin=Origin.PREDICTED,
                device_variants=measured.variants,
            )
        return self._from_published(target, last_step, host.p95_ms)

    def expected_ms(self, target: Target, last_step: str, host_p50_ms: float) -> float | None:
        """What orders files of all kinds on the profile's devices; None where no device has measured any.

        A kind that none has measured gets the geometric mean of the other ratios: good enough for an order, so that the
        milliseconds of this host never stand beside those of a slower CPU, and never held against a limit.
        """
        if not self.devices:
            return None
        measured = self.devices.get(kind_of(target.runtime, target.delegate, last_step))
        logs = [math.log(one.value) for one in self.devices.values()]
        return host_p50_ms * (measured.value if measured is not None else math.exp(math.fsum(logs) / len(logs)))

    def _from_published(self, target: Target, last_step: str, host_p95_ms: float) -> Figure | None:
        known = self.ratios.get(target.runtime)
        if not known or target.npu:
            return None
        numbers = COMPUTED_WITH.get(last_step) if target.delegate is Delegate.XNNPACK else None
        own = [known[numbers]] if numbers is not None and numbers in known else list(known.values())
        low, high = min(own), max(own)
        return Figure(
            value=host_p95_ms * math.sqrt(low * high),
            low=host_p95_ms * low / SPREAD,
            high=host_p95_ms * high * SPREAD,
            origin=Origin.PREDICTED,
        )


def predictor_for(
    profile: DeviceProfile,
    pythons: Mapping[RuntimeName, Path],
    *,
    host_cpu_model: str | None,
    cache_dir: Path | None,
    device_figures: Iterable[DeviceFigure] = (),
) -> Predictor:
    """Calibrate with what devices measured; measure the known network here, once for each cache, where it has a use.

    That is a profile with a limit on latency, for another CPU than this one; the network wants published figures. A
    host with fewer cores than the profile has threads predicts nothing: threads that wait for a core made the known
    network 100 times slower on tflite-runtime 2.14.
    """
    has_use = profile.limits.latency_p95_ms is not None and profile.cpu.model != host_cpu_model
    if not has_use or profile.threads > len(os.sched_getaffinity(0)):
        return Predictor()
    devices = device_ratios(device_figures, profile.name, host_cpu_model=host_cpu_model)
    if not profile.published:
        return Predictor(devices=devices)
    ratios: dict[RuntimeName, dict[Numbers, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for network, numbers, published_ms in _means(profile):
            path = Path(folder) / f"{network}-{numbers}.{FileFormat.TFLITE}"
            path.write_bytes(_file(network, numbers, Path(folder), cache_dir))
            for runtime in (one for one in profile.runtimes if one in pythons and one in FileFormat.TFLITE.runtimes):
                rig = Rig(_noise(), SIGNATURE, pythons=pythons, folder=Path(folder), kept=KeptMeasurements(cache_dir))
                run = rig.run(path, Target(runtime, Delegate.XNNPACK, profile.threads))
                if not isinstance(run, Failure):
                    ratios.setdefault(runtime, {})[numbers] = published_ms / run.result.p50_ms
    return Predictor(ratios, devices)


def _means(profile: DeviceProfile) -> Iterable[tuple[Benchmark, Numbers, float]]:
    """One figure for each network and kind of numbers: the geometric mean of those that are published."""
    found: dict[tuple[Benchmark, Numbers], list[float]] = {}
    for one in profile.published:
        found.setdefault((one.network, one.numbers), []).append(one.latency_ms)
    return [(network, numbers, math.exp(np.mean(np.log(all_ms)))) for (network, numbers), all_ms in found.items()]


def _noise() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    rng = np.random.default_rng(SEED)
    return {"picture": rng.normal(0, 1, (ROWS, 3, 224, 224)).astype(np.float32)}


def _file(network: Benchmark, numbers: Numbers, folder: Path, cache_dir: Path | None) -> bytes:
    """The known network as a file, with weights of no meaning."""
    module = build(NETWORKS[network], SIGNATURE, width=1.0, resolution=1.0, seed=SEED).eval()
    model = FloatModel(module, SIGNATURE, parameters=sum(weight.numel() for weight in module.parameters()))
    places = np.arange(ROWS)
    rows = Split(_noise(), np.zeros(ROWS, np.int64), places, None, places)
    metric = METRICS["top1"]
    kitchen = Kitchen(
        model,
        Context(rows, rows, task=Task.CLASSIFICATION, metric=metric),
        inputs_sha256=hashlib.sha256(f"{network} {ROWS} {SEED}".encode()).hexdigest(),
        cache_dir=cache_dir or folder / "cache",
        score=lambda one: score(one, rows, metric),
    )
    return kitchen.cook(RECIPES[numbers])[0].content
