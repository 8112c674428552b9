"""Prove a variant on this device: the right bytes, a file that loads, the golden outputs, latency and memory."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from edge_agent.errors import (
    DigestMismatchError,
    EdgeAgentError,
    ModelInvokeError,
    ModelLoadError,
    ModelLoadUnexplainedError,
    RuntimeMissingError,
)
from edge_agent.protocol.manifest import FileRole
from edge_agent.protocol.messages import SelfTestReport
from edge_agent.protocol.signature import FREE
from edge_agent.protocol.states import Reason
from edge_agent.runner.control import Refused
from edge_agent.runtimes.convert import BindingError, BoundModel, InputError
from edge_agent.runtimes.measure import (
    address_space_bytes,
    first_sample,
    peak_rss_bytes,
    reset_peak_rss,
    rss_bytes,
    time_runs,
)
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.protocol.manifest import Golden, VariantManifest
    from edge_agent.protocol.profile import Limits
    from edge_agent.protocol.signature import ModelSignature
    from edge_agent.runner.control import RunnerSpec
    from edge_agent.runtimes.base import Array

LEAST_HEADROOM_BYTES = 8 << 20
PROBE_ROUNDS = 3
HASH_CHUNK_BYTES = 1 << 20
DETAIL_CHARS = 500  # of a SelfTestReport's 512


class UnprovenError(EdgeAgentError):
    """The variant does not do here what its manifest says."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(slots=True)
class ProvenModel:
    """A model that may serve, and what was measured on the way."""

    model: BoundModel
    report: SelfTestReport


@dataclass(slots=True)
class Figures:
    """What has been measured so far; a refusal tells it too."""

    load_ms: float = 0.0
    first_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    runs: int = 0
    rss_bytes: int = 0  # peak that load and runs added to the process
    golden_max_error: float | None = None
    runtime_version: str = ""

    def report(self, manifest: VariantManifest, *, passed: bool, detail: str = "") -> SelfTestReport:
        """The wire form."""
        error = self.golden_max_error
        return SelfTestReport(
            passed=passed,
            runtime=manifest.runtime,
            runtime_version=self.runtime_version[:64],
            delegate=manifest.delegate,
            load_ms=self.load_ms,
            first_ms=self.first_ms,
            p50_ms=self.p50_ms,
            p95_ms=self.p95_ms,
            runs=self.runs,
            rss_bytes=self.rss_bytes,
            golden_max_error=error if error is None or np.isfinite(error) else None,
            detail=detail[:DETAIL_CHARS],
        )


def prove(spec: RunnerSpec) -> ProvenModel | Refused:
    """The whole self-test; whatever it finds is an answer, never an exception."""
    figures = Figures()
    try:
        model = _prove(spec, figures)
    except MemoryError:
        limit = spec.address_space_bytes
        reason, detail = Reason.MEMORY_LIMIT, f"no memory left: the model may take {limit} bytes of address space"
    except (EdgeAgentError, OSError, RuntimeError) as exc:
        reason, detail = _reason_of(exc), str(exc)
        if reason in {Reason.LOAD_FAILED, Reason.INTERNAL} and _starved(spec, exc):
            reason = Reason.MEMORY_LIMIT
            detail = f"{detail} (the model may take {spec.address_space_bytes} bytes of address space)"
    else:
        return ProvenModel(model, figures.report(spec.manifest, passed=True))
    report = figures.report(spec.manifest, passed=False, detail=detail)
    return Refused(reason=reason, detail=detail[:DETAIL_CHARS], report=report)


def limit_memory(more_bytes: int | None) -> None:
    """Let this process take no more than this much address space beyond what it has now."""
    if more_bytes is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = address_space_bytes() + more_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    if limit <= sys.maxsize:  # on 32 bits all there is may be less
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _starved(spec: RunnerSpec, exc: Exception) -> bool:
    """Whether the limit is why it failed: interpreters rarely say so, and an allocation that failed leaves no trace."""
    if spec.address_space_bytes is None:
        return False
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed_bytes = 2 * spec.manifest.model_file.size_bytes + LEAST_HEADROOM_BYTES
    return isinstance(exc, ModelLoadUnexplainedError) or limit - address_space_bytes() < needed_bytes


def _reason_of(exc: Exception) -> Reason:
    if isinstance(exc, UnprovenError):
        return exc.reason
    known: tuple[tuple[type[Exception], Reason], ...] = (
        (DigestMismatchError, Reason.DIGEST_MISMATCH),
        (RuntimeMissingError, Reason.RUNTIME_MISSING),
        (ModelLoadError, Reason.LOAD_FAILED),
        (BindingError, Reason.MANIFEST_INVALID),
        (InputError, Reason.MANIFEST_INVALID),
        (ModelInvokeError, Reason.LOAD_FAILED),  # it can't even run its own golden inputs
        (FileNotFoundError, Reason.LOAD_FAILED),
    )
    return next((reason for kind, reason in known if isinstance(exc, kind)), Reason.INTERNAL)


def _prove(spec: RunnerSpec, figures: Figures) -> BoundModel:
    manifest = spec.manifest
    verify_file(spec.model_path, manifest, FileRole.MODEL)
    samples, expected = _golden_arrays(spec)
    runtime = open_runtime(manifest.runtime)
    limit_memory(spec.address_space_bytes)  # for the model, not for what every runner imports
    figures.runtime_version = runtime.version
    reset_peak_rss()
    before_bytes = rss_bytes()
    began_s = time.perf_counter()
    loaded = runtime.load(spec.model_path, threads=manifest.threads, delegate=manifest.delegate)
    figures.load_ms = (time.perf_counter() - began_s) * 1e3
    model = BoundModel(loaded, manifest.signature, manifest.inputs, manifest.outputs)
    began_s = time.perf_counter()
    model.run(first_sample(samples, manifest.signature))
    figures.first_ms = (time.perf_counter() - began_s) * 1e3
    outputs = model.run(samples)
    figures.rss_bytes = max(0, peak_rss_bytes() - before_bytes)
    if manifest.golden is not None:
        figures.golden_max_error = _compare(outputs, expected, manifest.golden)
    _probe(spec, model, samples, figures)
    figures.rss_bytes = max(0, peak_rss_bytes() - before_bytes)
    _within(spec.limits, figures)
    return model


def _probe(spec: RunnerSpec, model: BoundModel, samples: dict[str, Array], figures: Figures) -> None:
    """Measure the latency; a probe over the limit is repeated, because another process may have disturbed it."""
    limit_ms = spec.limits.latency_p95_ms
    best: list[float] | None = None
    for _ in range(PROBE_ROUNDS):
        taken_ms = time_runs(model, samples, runs=spec.probe_runs, budget_s=spec.probe_budget_s)
        if best is None or np.percentile(taken_ms, 95) < np.percentile(best, 95):
            best = taken_ms
        figures.runs = len(best)
        figures.p50_ms, figures.p95_ms = (float(np.percentile(best, q)) for q in (50, 95))
        if limit_ms is None or figures.p95_ms <= limit_ms or figures.p50_ms > limit_ms:
            return  # a median over the limit is no disturbance


def verify_file(path: Path, manifest: VariantManifest, role: FileRole) -> None:
    """Hash a file as it lies on the disk now: what loads is what was signed.

    Raises:
        DigestMismatchError: its bytes are not those of the manifest.
        OSError: it can't be read.
    """
    expected = next(file.sha256 for file in manifest.files if file.role is role)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise DigestMismatchError(expected_sha256=expected, actual_sha256=digest.hexdigest())


def _golden_arrays(spec: RunnerSpec) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and expected outputs; without golden data one sample of zeros, to see that it runs."""
    manifest = spec.manifest
    if manifest.golden is None:
        return zeros(manifest.signature), {}
    if spec.golden_path is None:
        raise UnprovenError(Reason.MANIFEST_INVALID, "the manifest has golden data, but no golden file was given")
    verify_file(spec.golden_path, manifest, FileRole.GOLDEN)
    try:
        with np.load(spec.golden_path, allow_pickle=False) as archive:
            inputs = {tensor.name: archive[f"in_{i}"] for i, tensor in enumerate(manifest.signature.inputs)}
            outputs = {tensor.name: archive[f"out_{i}"] for i, tensor in enumerate(manifest.signature.outputs)}
    except (KeyError, ValueError, BadZipFile) as exc:
        raise UnprovenError(Reason.MANIFEST_INVALID, f"the golden file can't be read: {exc}") from exc
    return inputs, outputs


def zeros(signature: ModelSignature) -> dict[str, Array]:
    """One sample of zeros."""
    return {
        spec.name: np.zeros([1 if length == FREE else length for length in spec.shape], spec.datatype.numpy_name)
        for spec in signature.inputs
    }


def _compare(outputs: dict[str, Array], expected: dict[str, Array], golden: Golden) -> float:
    """The largest deviation; every output must be within `atol + rtol * abs(expected)`."""
    worst = 0.0
    for name, wanted in expected.items():
        got = outputs[name]
        if got.shape != wanted.shape:
            raise UnprovenError(
                Reason.MANIFEST_INVALID, f"golden output {name} has the shape {wanted.shape}, not {got.shape}"
            )
        want64 = np.asarray(wanted, dtype=np.float64)
        error = np.abs(np.asarray(got, dtype=np.float64) - want64)
        worst = max(worst, float(error.max(initial=0.0)))
        if not np.all(error <= golden.atol + golden.rtol * np.abs(want64)):  # NaN is not within anything
            raise UnprovenError(
                Reason.GOLDEN_MISMATCH,
                f"output {name} is off by {float(error.max()):.6g}, "
                f"the tolerance is {golden.atol:.6g} + {golden.rtol:.6g} * |expected|",
            )
    return worst


def _within(limits: Limits, figures: Figures) -> None:
    if limits.ram_bytes is not None and figures.rss_bytes > limits.ram_bytes:
        raise UnprovenError(
            Reason.MEMORY_LIMIT, f"adds {figures.rss_bytes} bytes of memory, the limit is {limits.ram_bytes}"
        )
    if limits.latency_p95_ms is not None and figures.p95_ms > limits.latency_p95_ms:
        raise UnprovenError(
            Reason.LATENCY_LIMIT,
            f"p95 is {figures.p95_ms:.3g} ms over {figures.runs} runs, the limit is {limits.latency_p95_ms:.3g} ms",
        )
