"""A report: load -> measure the float file and the variant -> ask both -> pages; see `contract.ReportRequest`.

It reads the test split: what it says is for people who decide, and no step, search or judge sees it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from compressors.building.kitchen import Kitchen
from compressors.contract import ProgressLine, ReportResult, Verdict
from compressors.data import evaluation_rows
from compressors.errors import CompressorError, DataError, ReportError
from compressors.files.formats import FORMATS, Form, Target
from compressors.inputs import loading, program
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Bench, rows_of
from compressors.measuring.scoring import score
from compressors.metrics import metric_for, value_of
from compressors.packing.golden import golden_file, sample_count
from compressors.packing.package import model_of, pack
from compressors.recipes import RECIPES
from compressors.reporting.asking import asking
from compressors.reporting.evidence import Candidate, Evidence, Sensitivity, Size
from compressors.reporting.examine import Examination
from compressors.reporting.labels import labelled, loss_share
from compressors.reporting.pages import write_report
from compressors.searching.front import pareto_front
from compressors.sensitivity.quantizing import sensitivity
from compressors.sensitivity.sharpness import affordable_curvature
from compressors.step import Context, ModelFile
from edge_agent.protocol.manifest import VariantManifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.contract import BuiltVariant, ReportRequest
    from compressors.data.evaluation_rows import Split
    from compressors.measuring.measure import Measurement, Scores
    from compressors.reporting.evidence import Verdicted
    from compressors.reporting.examine import Answers
    from edge_agent.runtimes.measure import MeasureResult

    Progress = Callable[[ProgressLine], None]

STAGES = 7  # what `_say` is told of


def run_report(request: ReportRequest, on_progress: Progress = lambda _line: None) -> ReportResult:
    """Report on one variant; see `compressors.report_on`."""
    with tempfile.TemporaryDirectory() as folder:
        return Reporting(request, Path(folder), on_progress).run()


@dataclass(frozen=True)
class Weighed:
    """A file that ran on the variant's target."""

    file: ModelFile
    size: Size


class Reporting:
    """One report."""

    def __init__(self, request: ReportRequest, folder: Path, on_progress: Progress) -> None:
        """Only the manifest is read yet.

        Raises:
            ReportError: there is no such variant, or it runs on another processor.
        """
        self._request, self._folder, self._on_progress, self._done = request, folder, on_progress, 0
        self._manifest = _manifest_of(request)
        self._form = _form_of(self._manifest)
        self._float_recipe = FORMATS[self._form].recipes[0]
        self._target = Target(self._manifest.runtime, self._manifest.delegate, self._manifest.threads)
        self._metric = metric_for(request.inputs.metric, request.inputs.task)

    def run(self) -> ReportResult:
        """All of it."""
        self._load()
        self._say("measuring the float model on the same runtime")
        before = self._float()
        self._say("measuring the variant")
        after = self._variant()
        self._say("looking for sensitive layers")
        layers, notes = self._sensitivity()
        self._say("comparing the answers of both")
        answers = self._answers(after.file)
        self._say("writing the pages")
        evidence = self._evidence(before, after, answers, layers, notes)
        files = write_report(self._request.output_dir, evidence)
        self._say("done")
        verdict = evidence.verdict
        return ReportResult(
            label=verdict.label, sentence=verdict.sentence, loses_points=verdict.loses_points, files=tuple(files)
        )

    def _say(self, stage: str) -> None:
        self._on_progress(ProgressLine(stage=stage, done=self._done, of=STAGES - 1))
        self._done += 1

    def _load(self) -> None:
        self._say("loading the model and its data")
        inputs = self._request.inputs
        self._network = loading.load(inputs.model_path)
        signature = self._network.signature
        if signature != self._manifest.signature:
            raise ReportError(f"{self._manifest.variant_id} was built of another model than {inputs.model_path.name}")
        self._data = evaluation_rows.load(inputs.data_path, signature, inputs.task, labels=inputs.labels)
        self._second = self._load_second()
        self._samples = sample_count(signature, self._data.selection)
        outputs = self._network.run(rows_of(self._data))
        program.check_finite(outputs, np.concatenate([self._data.selection.places, self._data.test.places]))
        first = outputs[signature.outputs[0].name]
        self._metric = self._metric.for_model(first[: self._data.selection.rows])
        self._bench = Bench(
            self._data,
            signature,
            task=inputs.task,
            metric=self._metric,
            pythons=self._request.pythons,
            folder=self._folder,
            golden_samples=self._samples,
            kept=KeptMeasurements(self._request.cache_dir, renew=self._request.measure_again),
        )
        self._float_scores: Scores = self._bench.score(first)
        self._context = Context(
            self._data.calibration,
            self._data.selection,
            task=inputs.task,
            metric=self._metric,
            teacher=self._network,
            threads=self._request.threads,
            seed=self._request.seed,
            cache_dir=self._request.cache_dir,
        )

    def _load_second(self) -> Split | None:
        path = self._request.shifted_path
        if path is None:
            return None
        try:
            rows = evaluation_rows.load_second(
                path,
                self._network.signature,
                self._request.inputs.task,
                queries=self._data.test.query is not None,
            )
            outputs = self._network.run(rows.inputs)
            program.check_finite(outputs, rows.places)
            first = outputs[self._network.signature.outputs[0].name]
            value_of(self._metric, first, rows.target, query=rows.query)
        except CompressorError as exc:
            raise DataError(f"the second set can't be used: {exc}") from exc
        return rows

    def _float(self) -> Weighed:
        """The float model as a file of the same format."""
        kitchen = Kitchen(
            self._network,
            self._context,
            inputs_sha256=loading.sha256_of(self._request.inputs),
            cache_dir=self._request.cache_dir,
            score=lambda model: score(model, self._data.selection, self._metric),
        )
        file = kitchen.cook(RECIPES[self._float_recipe])[0]
        measured, result = self._measured(file, "float")
        golden = golden_file(
            self._network.signature,
            self._data.selection,
            measured,
            [measured],
            samples=self._samples,
            quantized=False,
        )
        wire_bytes = pack(file.content, FORMATS[file.form].ending, golden).descriptor.size_bytes
        return Weighed(file, _size(file, wire_bytes, result))

    def _variant(self) -> Weighed:
        file = ModelFile(self._form, model_of(self._request.object_path.read_bytes(), self._manifest))
        _, result = self._measured(file, "variant")
        return Weighed(file, _size(file, self._manifest.object.size_bytes, result))

    def _measured(self, file: ModelFile, name: str) -> tuple[Measurement, MeasureResult]:
        path = self._folder / f"{name}.{FORMATS[file.form].ending}"
        path.write_bytes(file.content)
        measured = self._bench.run(path, self._target, self._float_scores)
        if measured.error is not None or measured.result is None:
            raise ReportError(f"the {name} file does not run on {self._target.runtime} here: {measured.error}")
        return measured, measured.result

    def _sensitivity(self) -> tuple[tuple[Sensitivity, ...], tuple[str, ...]]:
        """Of each layer; or why there are none."""
        try:
            found = sensitivity(self._network, self._context)
            curvature = affordable_curvature(self._network, self._context)
        except CompressorError as exc:
            return (), (f"Layers are left out: {exc}.",)
        return tuple(
            Sensitivity(
                layer=one.layer,
                weights_db=one.weights_db,
                activations_db=one.activations_db,
                both_db=-10.0 * float(np.log10(one.noise)),
                top_eigenvalue=curvature[one.layer].top_eigenvalue if one.layer in curvature else None,
                trace=curvature[one.layer].trace if one.layer in curvature else None,
            )
            for one in found
        ), ()

    def _answers(self, file: ModelFile) -> Answers:
        request = self._request
        with asking(self._network, file, self._target, request.pythons, self._folder) as after:
            return Examination(
                self._network.run,
                after,
                self._data.test,
                task=request.inputs.task,
                metric=self._metric,
                labels=self._data.labels,
                seed=request.seed,
                second=self._second,
            ).run()

    def _evidence(
        self, before: Weighed, after: Weighed, answers: Answers, layers: tuple[Sensitivity, ...], notes: tuple[str, ...]
    ) -> Evidence:
        request, variant = self._request, self._request.variant
        return Evidence(
            model=request.inputs.model,
            version=request.inputs.version,
            profile=variant.profile,
            variant_id=variant.variant_id,
            recipe=variant.recipe,
            chosen=variant.chosen,
            limits_verdict=variant.verdict,
            limits_reason=variant.reason.rstrip("."),
            target=_target_of(variant),
            task=request.inputs.task,
            rows=self._data.test.rows,
            float_size=before.size,
            size=after.size,
            latency_p95_ms=variant.latency_p95_ms,
            sensitivity=layers,
            candidates=tuple(self._candidates()),
            steps=variant.steps,
            notes=notes,
            verdict=self._verdict(before, after, answers),
            decision=answers.decision,
            ranking=answers.ranking,
            calibration_error=answers.calibration_error,
            agreement=answers.agreement,
            flips=answers.flips,
            slices=answers.slices,
            shifts=answers.shifts,
            attribution_correlation=answers.attribution_correlation,
        )

    def _verdict(self, before: Weighed, after: Weighed, answers: Answers) -> Verdicted:
        lost = answers.decision
        latency = None
        if after.size.latency_p50_ms is not None and before.size.latency_p50_ms:
            latency = after.size.latency_p50_ms / before.size.latency_p50_ms
        return labelled(
            latency=latency,
            cpu_model=self._request.host_cpu_model,
            raw_bytes=after.size.raw_bytes / before.size.raw_bytes,
            wire_bytes=after.size.wire_bytes / before.size.wire_bytes,
            loss=loss_share(self._metric, lost.before.value, lost.loss.value),
            is_float=after.file.content == before.file.content or self._request.variant.recipe == self._float_recipe,
        )

    def _candidates(self) -> list[Candidate]:
        """Those that have all three figures, of a host with the same CPU, the fastest first."""
        sign = -1.0 if self._metric.higher_is_better else 1.0
        own = self._request.variant.variant_id
        known = [
            Candidate(
                recipe=one.recipe,
                target=_target_of(one),
                verdict=one.verdict,
                latency_p50_ms=one.latency_p50_ms.value,
                download_bytes=one.wire_bytes,
                metric=one.metric.value,
                on_front=False,
                reported=one.variant_id == own,
            )
            for one in (self._request.variant, *self._request.others)
            if one.latency_p50_ms is not None
            and one.wire_bytes is not None
            and one.metric is not None
            and one.host_cpu_model == self._request.variant.host_cpu_model
        ]
        fitting = [one for one in known if one.verdict is not Verdict.MISSES]
        front = pareto_front(fitting, lambda one: (one.latency_p50_ms, one.download_bytes, sign * one.metric))
        marked = [one.model_copy(update={"on_front": one in front}) for one in known]
        return sorted(marked, key=lambda one: (one.latency_p50_ms, one.recipe))


def _manifest_of(request: ReportRequest) -> VariantManifest:
    try:
        found = VariantManifest.model_validate_json(request.manifest_path.read_bytes())
    except ValidationError as exc:
        raise ReportError(f"{request.manifest_path.name} is no manifest of a variant: build it again") from exc
    if found.variant_id != request.variant.variant_id:
        raise ReportError(f"the manifest is that of {found.variant_id}, not of {request.variant.variant_id}")
    return found


def _form_of(manifest: VariantManifest) -> Form:
    """What the file of a variant is.

    Raises:
        ReportError: it runs on another processor.
    """
    for form, kind in FORMATS.items():
        if manifest.runtime in kind.ending.runtimes and manifest.delegate in kind.delegates and not kind.npus:
            return form
    raise ReportError(
        f"{manifest.variant_id} runs on an NPU ({manifest.delegate}) alone, and jobs have none: report on a variant of "
        "the profile that is for its CPU"
    )


def _size(file: ModelFile, wire_bytes: int, result: MeasureResult) -> Size:
    return Size(
        raw_bytes=len(file.content),
        wire_bytes=wire_bytes,
        macs=FORMATS[file.form].read_facts(file.content).macs,
        latency_p50_ms=result.p50_ms,
        peak_rss_bytes=result.added_rss_bytes,
    )


def _target_of(variant: BuiltVariant) -> str:
    return f"{variant.runtime}/{variant.delegate}"
