"""Applies recipes to one network; what two of them begin with alike is built once, and kept for later jobs."""

from __future__ import annotations

import hashlib
import json
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from compressors.building.pantry import Pantry
from compressors.contract import StepRecord
from compressors.errors import GateError, RecipeError
from compressors.recipes import check, parameters_of, step_of, steps_from
from compressors.step import Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compressors.contract import Recipe, StepSpec
    from compressors.inputs.program import FloatModel
    from compressors.step import Context, ModelFile

    Score = Callable[[Model], float]  # the metric on the selection split

LIBRARIES = (  # whatever computes something in a step; what is not installed is known as absent
    "shoal",
    "torch",
    "torchao",
    "torch-pruning",
    "litert-torch",
    "litert-converter",
    "litert-quantizer",
    "ai-edge-litert",
    "kmeans1d",
    "numpy",
    "scipy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "executorch",
    "ethos-u-vela",
)


class Kitchen:
    """One network's recipes."""

    def __init__(
        self, network: FloatModel, context: Context, *, inputs_sha256: str, cache_dir: Path | None, score: Score
    ) -> None:
        """Nothing is built yet.

        Args:
            network: the float model; no step changes it.
            context: what the steps may look at.
            inputs_sha256: of all that a step's result depends on, besides its recipe and the libraries.
            cache_dir: where files and trained networks are kept for later jobs; None keeps them in memory only.
            score: how a model is scored where a recipe sets a gate.
        """
        self._network, self._context, self._score = network, context, score
        self._pantry = Pantry(cache_dir)
        versions = [f"{name}=={_version(name)}" for name in LIBRARIES]
        # gates and training depend on these too
        asked = [inputs_sha256, context.seed, context.device, context.metric.name, versions]
        self._origin = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        self._done: dict[str, tuple[Model, StepRecord]] = {}
        self._float_metric: float | None = None

    def cook(self, recipe: Recipe) -> tuple[ModelFile, tuple[StepRecord, ...]]:
        """Apply a recipe; the file and the record of each step.

        Raises:
            compressors.errors.CompressorError: a step or a gate refuses, or the recipe cannot work.
        """
        check(recipe)
        model = Model.pushed(self._network)
        records = []
        key = self._origin
        for spec in steps_from(model.form, recipe):
            key = hashlib.sha256(json.dumps([key, spec.model_dump(mode="json")]).encode()).hexdigest()
            model, record = self._step(key, spec, model)
            records.append(record)
        if model.file is None:  # `check` knows; the type checker does not
            raise RecipeError(f"the recipe {recipe.name} does not end in a file")
        return model.file, tuple(records)

    def _step(self, key: str, spec: StepSpec, model: Model) -> tuple[Model, StepRecord]:
        if key in self._done:
            return self._done[key]
        step = step_of(spec)
        if (kept := self._pantry.take(key, step, model)) is not None:
            self._done[key] = kept
            return kept
        if step.trains and self._context.train is None:
            raise RecipeError(f"{step.name} trains, and this version has no training data: push it with --train")
        began = time.monotonic()
        outcome = step.apply(model, self._context, parameters_of(spec))
        record = StepRecord(
            step=spec.step,
            parameters=spec.parameters,
            seconds=time.monotonic() - began,
            summary=outcome.summary,
            layers=outcome.layers,
            figures=outcome.figures,
            warning=outcome.warning,
            metric=self._gated(spec, outcome.model),
        )
        self._done[key] = (self._pantry.keep(key, step, outcome.model, record), record)
        return self._done[key]

    def _gated(self, spec: StepSpec, model: Model) -> float | None:
        """The metric after a step that has a gate."""
        if spec.max_drop is None:
            return None
        if self._float_metric is None:
            self._float_metric = self._score(Model.pushed(self._network))
        metric = self._score(model)
        drop = self._context.metric.loss_against(self._float_metric, metric)
        if drop > spec.max_drop:
            raise GateError(
                f"after {spec.step} the metric has lost {drop:.4g} on the selection split, and {spec.max_drop:.4g} is "
                "allowed there: choose milder parameters, or add a repair before the gate"
            )
        return metric


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # of an extra
        return "absent"
