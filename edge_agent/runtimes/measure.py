"""Measure one model file in a process of its own: `python -m edge_agent.runtimes.measure REQUEST.json RESULT.json`.

The Python that runs it decides which runtime is measured: tflite-runtime wants numpy < 2, the others numpy >= 2, and no
environment holds both. What runs here is the adapter that runs on the device.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zipfile import BadZipFile

import numpy as np
from pydantic import Field

from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.base import Bytes, Milliseconds, Seconds, Wire
from edge_agent.protocol.manifest import TensorBinding
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import ModelSignature
from edge_agent.runtimes.convert import BoundModel, InputError, bind
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from edge_agent.runtimes.base import Array

WARMUP_RUNS = 3


class MeasureRequest(Wire):
    """What to measure. Paths are the caller's."""

    model_path: Path
    runtime: RuntimeName
    delegate: Delegate
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    signature: ModelSignature
    data_path: Path  # .npz: one array for each input of the signature, samples first
    outputs_path: Path | None = None  # where to write the outputs of all samples, as .npz by output name
    runs: Annotated[int, Field(ge=1, le=100_000)] = 200
    budget_s: Seconds = 3.0  # stop counting runs after this time


class MeasureResult(Wire):
    """What came out; `error` None means that the file loads and runs here."""

    error: str | None = None
    error_code: str | None = None
    runtime_version: str = ""
    load_ms: Milliseconds = 0.0
    first_ms: Milliseconds = 0.0
    p50_ms: Milliseconds = 0.0
    p95_ms: Milliseconds = 0.0
    p50_interval_ms: tuple[Milliseconds, Milliseconds] | None = None  # 95 % interval of the median: what noise can move
    runs: int = 0
    added_rss_bytes: Bytes = 0  # peak of load and runs, above the process with the runtime imported
    delegate_partitions: int | None = None  # 0: nothing was delegated; None: the runtime does not tell
    inputs: tuple[TensorBinding, ...] = ()
    outputs: tuple[TensorBinding, ...] = ()


def peak_rss_bytes() -> int:
    """The highest resident memory of this process so far (VmHWM), 0 where the kernel does not tell."""
    return _status_bytes("VmHWM")


def rss_bytes() -> int:
    """The resident memory of this process now (VmRSS), 0 where the kernel does not tell."""
    return _status_bytes("VmRSS")


def address_space_bytes() -> int:
    """The address space of this process now (VmSize), 0 where the kernel does not tell."""
    return _status_bytes("VmSize")


def _status_bytes(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def reset_peak_rss() -> None:
    """Begin a new VmHWM, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def time_runs(model: BoundModel, samples: dict[str, Array], *, runs: int, budget_s: float) -> list[float]:
    """Milliseconds of single-sample runs, over the samples in turn, until `runs` or the budget is reached."""
    singles = [first_sample(samples, model.signature)]  # of constant batch: whole portions
    if all(spec.free_batch for spec in model.signature.inputs):
        rows = model.samples(samples)
        singles = [{name: array[i : i + 1] for name, array in samples.items()} for i in range(min(rows, 16))]
    began = time.perf_counter()
    for i in range(WARMUP_RUNS):
        model.run(singles[i % len(singles)])
        if time.perf_counter() - began > budget_s / 4:
            break  # a model of seconds is warm after one run
    taken = []
    deadline = time.perf_counter() + budget_s
    for i in range(runs):
        began = time.perf_counter()
        model.run(singles[i % len(singles)])
        ended = time.perf_counter()
        taken.append((ended - began) * 1e3)
        if ended > deadline:
            break
    return taken


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median, whatever the distribution: it lies between two of the sorted values.

    Args:
        values: at least one.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed., 3.2 (order statistics, normal approximation).
    """
    ordered, half = sorted(values), len(values) / 2
    reach = 1.96 * len(values) ** 0.5 / 2
    low, high = int(half - reach), int(half + reach + 0.5)
    return ordered[max(0, low)], ordered[min(len(ordered) - 1, high)]


def read_samples(path: Path, signature: ModelSignature) -> dict[str, Array]:
    """The arrays of an `.npz` that a signature names as inputs.

    Raises:
        InputError: the file is not such an archive, or lacks an input.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {spec.name: archive[spec.name] for spec in signature.inputs}
    except KeyError as exc:
        raise InputError(f"{path.name} holds no array for an input: {exc.args[0]}") from exc
    except (OSError, ValueError, BadZipFile) as exc:
        raise InputError(f"{path.name} can't be read as an .npz without pickles: {exc}") from exc


def first_sample(samples: dict[str, Array], signature: ModelSignature) -> dict[str, Array]:
    """The smallest request that the signature allows, of the first samples."""
    return {spec.name: samples[spec.name][: 1 if spec.free_batch else spec.shape[0]] for spec in signature.inputs}


def run_all(model: BoundModel, samples: dict[str, Array]) -> dict[str, Array]:
    """The outputs for all samples; a signature of constant batch takes them portion by portion, the rest is left."""
    step = model.signature.inputs[0].shape[0]
    if all(spec.free_batch for spec in model.signature.inputs):
        return model.run(samples)
    rows = len(next(iter(samples.values())))
    parts = [
        model.run({name: array[start : start + step] for name, array in samples.items()})
        for start in range(0, rows - step + 1, step)
    ]
    return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in model.signature.outputs}


def measure(request: MeasureRequest) -> MeasureResult:
    """Load, time, and run every sample."""
    runtime = open_runtime(request.runtime)
    samples = read_samples(request.data_path, request.signature)
    reset_peak_rss()
    before_bytes = rss_bytes()
    began = time.perf_counter()
    loaded = runtime.load(request.model_path, threads=request.threads, delegate=request.delegate)
    load_ms = (time.perf_counter() - began) * 1e3
    inputs = bind(request.signature.inputs, loaded.inputs)
    outputs = bind(request.signature.outputs, loaded.outputs)
    model = BoundModel(loaded, request.signature, inputs, outputs)
    began = time.perf_counter()
    model.run(first_sample(samples, request.signature))
    first_ms = (time.perf_counter() - began) * 1e3
    taken = time_runs(model, samples, runs=request.runs, budget_s=request.budget_s)
    added_bytes = max(0, peak_rss_bytes() - before_bytes)
    if request.outputs_path is not None:
        np.savez(request.outputs_path, allow_pickle=False, **model.run(samples))
    return MeasureResult(
        runtime_version=runtime.version,
        load_ms=load_ms,
        first_ms=first_ms,
        p50_ms=float(np.percentile(taken, 50)),
        p95_ms=float(np.percentile(taken, 95)),
        p50_interval_ms=interval_of_median(taken),
        runs=len(taken),
        added_rss_bytes=added_bytes,
        delegate_partitions=loaded.delegate_partitions(),
        inputs=inputs,
        outputs=outputs,
    )


def main() -> int:
    """Read the request, measure, write the result; a model that does not run is a result too."""
    request = MeasureRequest.model_validate_json(Path(sys.argv[1]).read_bytes())
    try:
        result = measure(request)
    except EdgeAgentError as exc:
        result = MeasureResult(error=str(exc), error_code=exc.code)
    Path(sys.argv[2]).write_text(result.model_dump_json())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
