"""One profile's share of a build: which candidates it has, how they stand, and what is written for those it may get."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressors.bootstrap import paired_loss
from compressors.building.choice import explain, ranked
from compressors.building.judge import Candidate, Judgement, judge, metric_point, refuse
from compressors.contract import BuiltVariant, Figure, Origin, ProfileChoice, StepRecord
from compressors.files.formats import Target, runs_on
from compressors.measuring.fidelity import loss_sources
from compressors.packing.package import Identity, Packed, manifest, write_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressors.building.prediction import Predictor
    from compressors.contract import BuildRequest
    from compressors.files.facts import FileFacts
    from compressors.measuring.measure import Measurement, Scores
    from compressors.metrics import Metric
    from edge_agent.protocol.profile import DeviceProfile
    from edge_agent.protocol.signature import ModelSignature
    from edge_agent.runtimes.measure import MeasureResult


@dataclass(frozen=True)
class Built:
    """A file on a target: what a recipe made, as it travels, and everything measured about it."""

    recipe: str
    measurement: Measurement
    content: bytes = b""  # empty: the recipe refused this network, `measurement.error` says why
    steps: tuple[StepRecord, ...] = ()
    facts: FileFacts | None = None
    packed: Packed | None = None

    @property
    def target(self) -> Target:
        """What it is for."""
        return self.measurement.target

    @property
    def figures(self) -> dict[str, float]:
        """What the compiler of an NPU reported; nothing of a file that was measured on this host."""
        return self.steps[-1].figures if self.steps and self.target.npu else {}


@dataclass(frozen=True)
class Reference:
    """What all candidates of a build are held against and described with."""

    metric: Metric
    float_scores: Scores
    signature: ModelSignature
    labels: tuple[str, ...]


class Appraisal:
    """Judges everything that was built for one profile, and writes what the profile may get."""

    def __init__(
        self, request: BuildRequest, profile: DeviceProfile, reference: Reference, predictor: Predictor
    ) -> None:
        self._request, self._profile, self._reference, self._predictor = request, profile, reference, predictor

    def run(self, built: Sequence[Built]) -> tuple[list[BuiltVariant], ProfileChoice]:
        """A variant for each candidate, and what the profile gets."""
        profile = self._profile
        own = [one for one in built if runs_on(one.target, profile)]
        judgements = [
            judge(self._candidate(one), profile, self._reference.metric, host_cpu_model=self._request.host_cpu_model)
            for one in own
        ]
        order = ranked(judgements)
        ranks = {id(judgement): rank for rank, judgement in enumerate(order)}
        variants = [
            self._variant(one, judgement, rank=ranks.get(id(judgement)))
            for one, judgement in zip(own, judgements, strict=True)
        ]
        if order:
            chosen = order[0]
            reason = explain(judgements, metric=self._request.inputs.metric) + _warning_of(own)
            return variants, ProfileChoice(profile=profile.name, variant_id=chosen.candidate.variant_id, reason=reason)
        refusal = refuse(judgements, profile)
        if warning := _warning_of(own):
            refusal = refusal.model_copy(update={"sentence": f"{refusal.sentence.rstrip('.')}.{warning}"})
        return variants, ProfileChoice(profile=profile.name, refusal=refusal)

    def _variant_id(self, one: Built) -> str:
        """Short, and the same whenever the same file is built for the same target."""
        inputs, target = self._request.inputs, one.target
        content = hashlib.sha256(one.content).hexdigest()
        place = [str(part) for part in target if part != ""]
        parts = [inputs.model, inputs.version, self._profile.name, one.recipe, content, *place]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"{one.recipe}-{target.runtime}-{target.delegate}-{digest[:12]}"

    def _candidate(self, one: Built) -> Candidate:
        variant_id, packed = self._variant_id(one), one.packed
        result, scores = one.measurement.result, one.measurement.scores
        if result is None or scores is None or packed is None:
            return Candidate(variant_id, one.measurement.error or "not measured", *([None] * 10))
        metric, float_scores = self._reference.metric, self._reference.float_scores
        loss = paired_loss(metric, float_scores.selection, scores.selection)
        return Candidate(
            variant_id,
            error=None,
            latency_p95_ms=self._device_latency(variant_id) or self._host_latency(one, result),
            host_latency_p50_ms=one.figures.get("npu_ms", result.p50_ms),
            metric=scores.selection.value,
            metric_drop=loss.value,
            metric_drop_at_least=loss.low,
            metric_drop_at_most=loss.high,
            metric_point=metric_point(metric, float_scores.selection.value),
            ram_bytes=None if one.figures else result.added_rss_bytes,
            download_bytes=packed.descriptor.size_bytes,
            storage_bytes=sum(part.size_bytes for part in packed.files),
            host_latency_interval_ms=None if one.figures else result.p50_interval_ms,
            operators_off_npu=int(one.figures["operators_off_npu"]) if one.figures else None,
            metric_interval=scores.selection.figure.interval,
            metric_sources=loss_sources(float_scores.selection, scores.selection),
        )

    def _host_latency(self, one: Built, result: MeasureResult) -> Figure | None:
        """What is predicted from a measurement here, or that measurement; nothing of a file for an NPU."""
        if one.figures:
            return None
        last_step = one.steps[-1].step if one.steps else "export-litert"  # a model that was pushed as a file has none
        return self._predictor.p95_ms(one.target, last_step, result) or Figure(value=result.p95_ms)

    def _device_latency(self, variant_id: str) -> Figure | None:
        """What devices of this profile measured."""
        seen = [
            figure.p95_ms
            for figure in self._request.device_figures
            if figure.profile == self._profile.name and figure.variant_id == variant_id
        ]
        return Figure(value=max(seen), origin=Origin.DEVICE) if seen else None

    def _variant(self, one: Built, judgement: Judgement, *, rank: int | None) -> BuiltVariant:
        variant = BuiltVariant(
            profile=self._profile.name,
            variant_id=judgement.candidate.variant_id,
            recipe=one.recipe,
            runtime=one.target.runtime,
            delegate=one.target.delegate,
            verdict=judgement.verdict,
            chosen=rank == 0,
            rank=rank,
            caveat=judgement.caveat,
            reason=judgement.reason,
            raw_bytes=len(one.content) or None,
            macs=one.facts.macs if one.facts else None,
            operators=one.facts.operators if one.facts else None,
            quantized_operators=one.facts.quantized_operators if one.facts else None,
            steps=one.steps,
        )
        result, scores = one.measurement.result, one.measurement.scores
        if one.packed is None or result is None or scores is None:
            return variant
        measured: dict[str, object] = {
            "wire_bytes": one.packed.descriptor.size_bytes,
            "latency_p95_ms": judgement.candidate.latency_p95_ms,
            "metric": scores.test.figure,
            "metric_drop": paired_loss(self._reference.metric, self._reference.float_scores.test, scores.test),
            "agreement": one.measurement.agreement,
        }
        if not one.target.npu:
            measured |= {
                "delegate_partitions": result.delegate_partitions,
                "load_ms": Figure(value=result.load_ms),
                "latency_p50_ms": Figure(value=result.p50_ms),
                "peak_rss_bytes": Figure(value=float(result.added_rss_bytes)),
                "host_cpu_model": self._request.host_cpu_model,
            }
        # also for what misses: a device may already run it, and must be able to fetch it again
        measured |= self._written(one, one.packed, judgement.candidate.variant_id)
        return variant.model_copy(update=measured)

    def _written(self, one: Built, packed: Packed, variant_id: str) -> dict[str, object]:
        """Manifest and object in the output folder."""
        inputs, result = self._request.inputs, one.measurement.result
        if result is None:
            return {}
        document = manifest(
            packed,
            Identity(inputs.model, inputs.version, self._profile.name, one.recipe, variant_id),
            target=one.target,
            result=result,
            signature=self._reference.signature,
            labels=self._reference.labels,
        )
        manifest_json = document.model_dump_json(exclude_none=True).encode()
        return {
            "manifest_sha256": write_named(self._request.output_dir, manifest_json),
            "manifest_bytes": len(manifest_json),
            "object_sha256": write_named(self._request.output_dir, packed.content),
        }


def _warning_of(built: Sequence[Built]) -> str:
    """A sentence where a step of some candidate warns of the data, chosen or not: they may be why it was not."""
    warned = ((one.recipe, step.warning) for one in built for step in one.steps if step.warning)
    return next((f" {recipe} has a {warning}." for recipe, warning in warned), "")
