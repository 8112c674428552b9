"""A job: `python -m compressors.job inspect|build REQUEST.json RESULT.json`; see `contract` for what goes in and out.

Puts the parts together: load -> recipes -> measure -> judge -> pack. It runs in a limited subprocess, without network.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from compressors import data, program
from compressors.contract import (
    FAILED_EXIT_CODE,
    BuildRequest,
    BuildResult,
    BuiltVariant,
    FailureBody,
    Figure,
    InspectRequest,
    InspectResult,
    JobFailure,
    Origin,
    ProfileChoice,
    ProgressLine,
    StepRecord,
)
from compressors.errors import CompressorError
from compressors.golden import golden_file, sample_count
from compressors.judge import UNASKED_DROP, Candidate, Judgement, choose, judge, refuse
from compressors.measure import Bench, Measurement, Scores, Target
from compressors.metrics import metric_for
from compressors.package import Identity, Packed, manifest, pack, write_named
from compressors.recipes import Kitchen, Recipe, recipes_named
from compressors.steps.base import Context
from compressors.tflite_file import FileFacts, read_facts
from edge_agent.protocol.profile import Delegate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressors.contract import Inputs
    from compressors.metrics import Metric
    from edge_agent.protocol.profile import DeviceProfile


@dataclass(frozen=True)
class BuiltFile:
    """What a recipe made, and everything measured about it."""

    recipe: Recipe
    content: bytes
    steps: tuple[StepRecord, ...]
    facts: FileFacts
    measurements: tuple[Measurement, ...]


def run_inspect(request: InspectRequest) -> InspectResult:
    """Look into a model and its data."""
    inputs = request.inputs
    metric_for(inputs.metric, inputs.task)
    network = program.load(inputs.model_path)
    evaluation = data.load(inputs.data_path, network.signature, inputs.task, labels=inputs.labels)
    return InspectResult(
        signature=network.signature,
        parameters=network.parameters,
        splits=evaluation.counts(),
        labels=evaluation.labels,
    )


def run_build(request: BuildRequest) -> BuildResult:
    """Build, measure, judge and pack."""
    request.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return Build(request, Path(folder)).run()


class Build:
    """One build job."""

    def __init__(self, request: BuildRequest, folder: Path) -> None:
        self._request, self._folder = request, folder
        self._recipes = recipes_named(request.recipes)
        self._metric: Metric = metric_for(request.inputs.metric, request.inputs.task)
        self._targets = sorted(
            {
                Target(runtime, delegate, profile.threads)
                for profile in request.profiles
                for runtime in profile.runtimes
                for delegate in Delegate
            }
        )
        self._done = 0

    def run(self) -> BuildResult:
        """All recipes, all targets, all profiles."""
        self._say("loading the model and its data")
        inputs = self._request.inputs
        self._network = program.load(inputs.model_path)
        self._data = data.load(inputs.data_path, self._network.signature, inputs.task, labels=inputs.labels)
        self._bench = Bench(
            self._data,
            self._network.signature,
            task=inputs.task,
            metric=self._metric,
            pythons=self._request.pythons,
            folder=self._folder,
            golden_samples=sample_count(self._network.signature, self._data.selection),
        )
        self._say("scoring the float model")
        outputs = self._network.run(self._bench.inputs())
        self._float_scores = self._bench.score(outputs[self._network.signature.outputs[0].name])
        files = self._build_files()
        variants: list[BuiltVariant] = []
        choices: list[ProfileChoice] = []
        for profile in self._request.profiles:
            self._say(f"judging for {profile.name}")
            made, choice = self._judge(profile, files)
            variants += made
            choices.append(choice)
        return BuildResult(float_metric=self._float_scores.test, variants=tuple(variants), choices=tuple(choices))

    def _say(self, stage: str) -> None:
        total = 2 + len(self._recipes) * (1 + len(self._targets)) + len(self._request.profiles)
        sys.stdout.write(ProgressLine(stage=stage, done=self._done, of=total).model_dump_json() + "\n")
        sys.stdout.flush()
        self._done += 1

    def _build_files(self) -> list[BuiltFile]:
        context = Context(
            self._data.calibration, self._data.selection, threads=self._request.threads, seed=self._request.seed
        )
        kitchen = Kitchen(
            self._network,
            context,
            inputs_sha256=_sha256_of(self._request.inputs),
            cache_dir=self._request.cache_dir,
        )
        files = []
        refusals: list[CompressorError] = []
        for recipe in self._recipes:
            self._say(f"building {recipe.name}")
            try:
                content, steps = kitchen.cook(recipe)
            except CompressorError as exc:
                refusals.append(exc)  # a network without dense layers has no int8 form, but its float32 form is fine
                self._done += len(self._targets)
                continue
            path = self._folder / f"{recipe.name}.tflite"
            path.write_bytes(content)
            measurements = []
            for target in self._targets:
                self._say(f"measuring {recipe.name} on {target.runtime} ({target.delegate})")
                measurements.append(self._bench.run(path, target, self._float_scores))
            files.append(BuiltFile(recipe, content, steps, read_facts(content), tuple(measurements)))
        if not files:
            raise refusals[0]
        return files

    def _judge(self, profile: DeviceProfile, files: Sequence[BuiltFile]) -> tuple[list[BuiltVariant], ProfileChoice]:
        entries: list[tuple[BuiltFile, Measurement, Packed | None, Judgement]] = []
        for file in files:
            for measurement in file.measurements:
                target = measurement.target
                if target.runtime not in profile.runtimes or target.threads != profile.threads:
                    continue
                packed = self._pack(file, measurement)
                variant_id = self._variant_id(profile, file, measurement)
                candidate = self._candidate(profile, variant_id, measurement, packed)
                judgement = judge(candidate, profile, self._metric, host_cpu_model=self._request.host_cpu_model)
                entries.append((file, measurement, packed, judgement))
        judgements = [entry[3] for entry in entries]
        chosen = choose(judgements)
        variants = [self._variant(profile, *entry, chosen=entry[3] is chosen) for entry in entries]
        if chosen is not None:
            return variants, ProfileChoice(profile=profile.name, variant_id=chosen.candidate.variant_id)
        return variants, ProfileChoice(profile=profile.name, refusal=refuse(judgements, profile))

    def _pack(self, file: BuiltFile, measurement: Measurement) -> Packed | None:
        if measurement.error is not None:
            return None
        samples = sample_count(self._network.signature, self._data.selection)
        golden = golden_file(
            self._network.signature, self._data.selection, measurement, file.measurements, samples=samples
        )
        return pack(file.content, golden)

    def _variant_id(self, profile: DeviceProfile, file: BuiltFile, measurement: Measurement) -> str:
        inputs = self._request.inputs
        target = measurement.target
        parts = [
            inputs.model,
            inputs.version,
            profile.name,
            hashlib.sha256(file.content).hexdigest(),
            *map(str, target),
        ]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"{file.recipe.name}-{target.runtime}-{target.delegate}-{digest[:12]}"

    def _candidate(
        self, profile: DeviceProfile, variant_id: str, measurement: Measurement, packed: Packed | None
    ) -> Candidate:
        result, scores = measurement.result, measurement.scores
        if measurement.error is not None or result is None or scores is None or packed is None:
            return Candidate(variant_id, measurement.error or "not measured", *([None] * 9))
        float_value = self._float_scores.selection.value
        return Candidate(
            variant_id,
            error=None,
            latency_p95_ms=self._device_latency(profile, variant_id) or Figure(value=result.p95_ms),
            host_latency_p95_ms=result.p95_ms,
            metric=scores.selection.value,
            metric_drop=self._metric.loss_against(float_value, scores.selection.value),
            metric_drop_at_least=self._metric.loss_against(float_value, self._favourable(scores.selection)),
            unasked_drop=UNASKED_DROP if self._metric.bounded else UNASKED_DROP * abs(float_value),
            ram_bytes=result.added_rss_bytes,
            download_bytes=packed.descriptor.size_bytes,
            storage_bytes=sum(part.size_bytes for part in packed.files),
        )

    def _favourable(self, figure: Figure) -> float:
        end = figure.high if self._metric.higher_is_better else figure.low
        return figure.value if end is None else end

    def _device_latency(self, profile: DeviceProfile, variant_id: str) -> Figure | None:
        """What devices of this profile measured; the slowest, because a limit holds for each of them."""
        seen = [
            figure.p95_ms
            for figure in self._request.device_figures
            if figure.profile == profile.name and figure.variant_id == variant_id
        ]
        return Figure(value=max(seen), origin=Origin.DEVICE) if seen else None

    def _variant(
        self,
        profile: DeviceProfile,
        file: BuiltFile,
        measurement: Measurement,
        packed: Packed | None,
        judgement: Judgement,
        *,
        chosen: bool,
    ) -> BuiltVariant:
        target, result, scores = measurement.target, measurement.result, measurement.scores
        variant = BuiltVariant(
            profile=profile.name,
            variant_id=judgement.candidate.variant_id,
            recipe=file.recipe.name,
            runtime=target.runtime,
            delegate=target.delegate,
            verdict=judgement.verdict,
            chosen=chosen,
            reason=judgement.reason,
            raw_bytes=len(file.content),
            macs=file.facts.macs,
            operators=file.facts.operators,
            quantized_operators=file.facts.quantized_operators,
            steps=file.steps,
        )
        if packed is None or result is None or scores is None:
            return variant
        manifest_json = self._manifest_json(packed, profile, file, measurement, judgement.candidate.variant_id)
        return variant.model_copy(
            update={
                "manifest_sha256": write_named(self._request.output_dir, manifest_json),
                "manifest_bytes": len(manifest_json),
                "object_sha256": write_named(self._request.output_dir, packed.content),
                "wire_bytes": packed.descriptor.size_bytes,
                "delegate_partitions": result.delegate_partitions,
                "load_ms": Figure(value=result.load_ms),
                "latency_p50_ms": Figure(value=result.p50_ms),
                "latency_p95_ms": judgement.candidate.latency_p95_ms,
                "peak_rss_bytes": Figure(value=float(result.added_rss_bytes)),
                "metric": scores.test,
                "metric_drop": Figure(value=self._test_drop(scores)),
                "agreement": measurement.agreement,
            }
        )

    def _test_drop(self, scores: Scores) -> float:
        return self._metric.loss_against(self._float_scores.test.value, scores.test.value)

    def _manifest_json(
        self, packed: Packed, profile: DeviceProfile, file: BuiltFile, measurement: Measurement, variant_id: str
    ) -> bytes:
        result = measurement.result
        assert result is not None  # noqa: S101  only what was measured is packed
        inputs = self._request.inputs
        document = manifest(
            packed,
            Identity(inputs.model, inputs.version, profile.name, file.recipe.name, variant_id),
            target=measurement.target,
            result=result,
            signature=self._network.signature,
            labels=self._data.labels,
        )
        return document.model_dump_json(exclude_none=True).encode()


def _sha256_of(inputs: Inputs) -> str:
    """What the files of a build depend on: the network, and the data that calibrate it."""
    digest = hashlib.sha256()
    for path in (inputs.model_path, inputs.data_path):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(inputs.task.encode())
    return digest.hexdigest()


def main(arguments: list[str]) -> int:
    """Run one job; the exit code is 0, or 2 with a `JobFailure` in the result file."""
    verb, request_path, result_path = arguments
    logging.disable(logging.WARNING)  # converters talk; what matters is in the result
    raw = Path(request_path).read_bytes()
    result: InspectResult | BuildResult | JobFailure
    code = 0
    try:
        if verb == "inspect":
            result = run_inspect(InspectRequest.model_validate_json(raw))
        else:
            result = run_build(BuildRequest.model_validate_json(raw))
    except CompressorError as exc:
        result, code = JobFailure(error=FailureBody(code=exc.code, message=str(exc))), FAILED_EXIT_CODE
    except ValidationError as exc:
        message = f"the request does not fit: {exc.errors(include_url=False)[0]['msg']}"
        result, code = JobFailure(error=FailureBody(code="bad_request", message=message)), FAILED_EXIT_CODE
    except MemoryError:
        message = (
            "the job needs more memory than it may have: raise job_memory_bytes, or use a smaller model or less data"
        )
        result, code = JobFailure(error=FailureBody(code="job_memory", message=message)), FAILED_EXIT_CODE
    Path(result_path).write_text(result.model_dump_json())
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
