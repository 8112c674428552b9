"""A build: load -> recipes -> measure on every target -> judge for every profile -> pack; see `contract`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressors.building.appraise import Appraisal, Built, Reference
from compressors.building.kitchen import Kitchen
from compressors.building.prediction import predictor_for
from compressors.contract import BuildResult, BuiltVariant, ProfileChoice, ProgressLine
from compressors.data import evaluation_rows, training_rows
from compressors.errors import CompressorError
from compressors.files.formats import FORMATS, Target
from compressors.inputs import loading, program
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Bench, Measurement, rows_of
from compressors.measuring.scoring import score, scoring_runtime
from compressors.metrics import metric_for
from compressors.packing.golden import golden_file, sample_count
from compressors.packing.package import pack
from compressors.recipes import recipes_of, targets_for
from compressors.step import Context
from compressors.training.device import device_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.contract import BuildRequest, Recipe
    from compressors.step import ModelFile

    Progress = Callable[[ProgressLine], None]


def run_build(request: BuildRequest, on_progress: Progress = lambda _line: None) -> BuildResult:
    """Build, measure, judge and pack."""
    request.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        return Build(request, Path(folder), on_progress).run()


class Build:
    """One build."""

    def __init__(self, request: BuildRequest, folder: Path, on_progress: Progress) -> None:
        self._request, self._folder, self._on_progress = request, folder, on_progress
        self._recipes = recipes_of(request.recipes, request.profiles)
        self._targets = {recipe.name: targets_for(recipe, request.profiles) for recipe in self._recipes}
        self._metric = metric_for(request.inputs.metric, request.inputs.task)
        self._device = device_for(request.device)  # before anything is computed
        self._taught: training_rows.TrainingRows | None = None
        self._done = 0

    def run(self) -> BuildResult:
        """All recipes, all targets, all profiles."""
        self._say("loading the model and its data")
        inputs = self._request.inputs
        self._network = loading.load(inputs.model_path)
        self._data = evaluation_rows.load(inputs.data_path, self._network.signature, inputs.task, labels=inputs.labels)
        if inputs.train_path is not None:
            self._taught = training_rows.load(inputs.train_path, self._network.signature, inputs.task, self._data)
        self._samples = sample_count(self._network.signature, self._data.selection)
        self._say("scoring the float model")
        outputs = self._network.run(rows_of(self._data))
        program.check_finite(outputs, np.concatenate([self._data.selection.places, self._data.test.places]))
        self._network.check_samples_are_independent(self._data.selection.inputs)
        first = outputs[self._network.signature.outputs[0].name]
        self._metric = self._metric.for_model(first[: self._data.selection.rows])
        self._bench = Bench(
            self._data,
            self._network.signature,
            task=inputs.task,
            metric=self._metric,
            pythons=self._request.pythons,
            folder=self._folder,
            golden_samples=self._samples,
            kept=KeptMeasurements(self._request.cache_dir, renew=self._request.measure_again),
        )
        self._float_scores = self._bench.score(first)
        built = self._build_all()
        reference = Reference(self._metric, self._float_scores, self._network.signature, self._data.labels)
        variants: list[BuiltVariant] = []
        choices: list[ProfileChoice] = []
        for profile in self._request.profiles:
            self._say(f"judging for {profile.name}")
            predictor = predictor_for(
                profile,
                self._request.pythons,
                host_cpu_model=self._request.host_cpu_model,
                cache_dir=self._request.cache_dir,
                device_figures=self._request.device_figures,
            )
            made, choice = Appraisal(self._request, profile, reference, predictor).run(built)
            variants += made
            choices.append(choice)
        return BuildResult(
            float_metric=self._float_scores.test.figure, variants=tuple(variants), choices=tuple(choices)
        )

    def _say(self, stage: str) -> None:
        total = 2 + len(self._recipes) + sum(map(len, self._targets.values())) + len(self._request.profiles)
        self._on_progress(ProgressLine(stage=stage, done=self._done, of=total))
        self._done += 1

    def _build_all(self) -> list[Built]:
        context = Context(
            self._data.calibration,
            self._data.selection,
            task=self._request.inputs.task,
            metric=self._metric,
            train=None if self._taught is None else self._taught.split,
            teacher=self._network,
            threads=self._request.threads,
            seed=self._request.seed,
            device=self._device,
            cache_dir=self._request.cache_dir,
        )
        kitchen = Kitchen(
            self._network,
            context,
            inputs_sha256=loading.sha256_of(self._request.inputs),
            cache_dir=self._request.cache_dir,
            score=lambda model: score(model, self._data.selection, self._metric),
        )
        built: list[Built] = []
        refusals: list[CompressorError] = []
        for recipe in self._recipes:
            self._say(f"building {recipe.name}")
            try:
                built += self._build(recipe, kitchen)
            except CompressorError as exc:  # a network without dense layers has no int8 form, but a float32 form
                refusals.append(exc)
                targets = self._targets[recipe.name]
                built += [Built(recipe.name, Measurement(target, error=str(exc))) for target in targets]
                self._done += len(targets)
        if len(refusals) == len(self._recipes):
            raise refusals[0]
        return built

    def _build(self, recipe: Recipe, kitchen: Kitchen) -> list[Built]:
        file, steps = kitchen.cook(recipe)
        measured_file = self._measured_file(recipe, kitchen, file)
        path = self._folder / f"{recipe.name}.{FORMATS[measured_file.form].ending}"
        path.write_bytes(measured_file.content)
        measurements = []
        for target in self._targets[recipe.name]:
            self._say(f"measuring {recipe.name} on {target.runtime} ({target.delegate})")
            place = Target(*scoring_runtime(measured_file.form), target.threads) if target.npu else target
            measurements.append(replace(self._bench.run(path, place, self._float_scores), target=target))
        facts = FORMATS[measured_file.form].read_facts(measured_file.content)
        built = []
        for measurement in measurements:
            packed = None
            if measurement.error is None:
                golden = golden_file(
                    self._network.signature,
                    self._data.selection,
                    measurement,
                    measurements,
                    samples=self._samples,
                    quantized=facts.quantized_operators > 0,
                )
                packed = pack(file.content, FORMATS[file.form].ending, golden)
            built.append(Built(recipe.name, measurement, file.content, steps, facts, packed))
        return built

    def _measured_file(self, recipe: Recipe, kitchen: Kitchen, file: ModelFile) -> ModelFile:
        """What is measured here: the file, or, of one that runs on an NPU alone, what it was compiled from.

        Its integers are the same there, so that metric and golden outputs hold; its latency and memory are no figures.
        """
        if not FORMATS[file.form].npus:
            return file
        return kitchen.cook(recipe.model_copy(update={"steps": recipe.steps[:-1]}))[0]
