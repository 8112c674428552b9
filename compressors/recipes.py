"""Recipes: ordered steps as data, applied with what they share built once."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from compressors.contract import StepRecord
from compressors.errors import RecipeError
from compressors.steps.base import Model
from compressors.steps.export_litert import export_litert
from compressors.steps.quantize_litert import quantize_dynamic, quantize_static

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from compressors.program import FloatModel
    from compressors.steps.base import Context, Step

STEPS: dict[str, Step] = {
    "export-litert": export_litert,
    "dynamic-int8": quantize_dynamic,
    "static-int8": quantize_static,
}
LIBRARIES = ("torch", "litert-torch", "litert-quantizer")


@dataclass(frozen=True)
class StepSpec:
    """One step with its parameters."""

    step: str
    parameters: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Steps in order, under a name."""

    name: str
    steps: tuple[StepSpec, ...]


_EXPORT = StepSpec("export-litert")
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("float32", (_EXPORT,)),
        Recipe("dynamic-int8", (_EXPORT, StepSpec("dynamic-int8"))),
        Recipe("static-int8", (_EXPORT, StepSpec("static-int8"))),
        Recipe("static-int8-floatio", (_EXPORT, StepSpec("static-int8", (("io", "float32"),)))),
    )
}
DEFAULT_RECIPES = ("float32", "dynamic-int8", "static-int8")


def recipes_named(names: tuple[str, ...]) -> list[Recipe]:
    """Recipes by name; none named: those that suit every task.

    Raises:
        RecipeError: a name that does not exist.
    """
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise RecipeError(f"there is no recipe {unknown[0]!r}; there are {', '.join(RECIPES)}")
    return [RECIPES[name] for name in names or DEFAULT_RECIPES]


class Kitchen:
    """Applies recipes to one network; what two of them begin with alike is built once, and kept for later jobs."""

    def __init__(self, network: FloatModel, context: Context, *, inputs_sha256: str, cache_dir: Path | None) -> None:
        self._network, self._context, self._cache_dir = network, context, cache_dir
        versions = [f"{name}=={version(name)}" for name in LIBRARIES]
        self._origin = hashlib.sha256(json.dumps([inputs_sha256, versions]).encode()).hexdigest()
        self._done: dict[str, tuple[Model, StepRecord]] = {}

    def cook(self, recipe: Recipe) -> tuple[bytes, tuple[StepRecord, ...]]:
        """Apply a recipe; the file and the record of each step.

        Raises:
            compressors.errors.CompressorError: a step refuses, or the recipe does not end in a file.
        """
        model = Model(self._network)
        records = []
        key = self._origin
        for spec in recipe.steps:
            key = hashlib.sha256(json.dumps([key, spec.step, spec.parameters]).encode()).hexdigest()
            model, record = self._step(key, spec, model)
            records.append(record)
        if model.file is None:
            raise RecipeError(f"the recipe {recipe.name} does not end in a file: let export-litert be one of its steps")
        return model.file, tuple(records)

    def _step(self, key: str, spec: StepSpec, model: Model) -> tuple[Model, StepRecord]:
        if key in self._done:
            return self._done[key]
        if (kept := self._read(key)) is not None:
            file, record = kept
            self._done[key] = (replace(model, file=file), record)
            return self._done[key]
        if spec.step not in STEPS:
            raise RecipeError(f"there is no step {spec.step!r}; there are {', '.join(STEPS)}")
        began = time.monotonic()
        outcome = STEPS[spec.step](model, self._context, dict(spec.parameters))
        record = StepRecord(
            step=spec.step, seconds=time.monotonic() - began, summary=outcome.summary, layers=outcome.layers
        )
        if outcome.model.file is not None:
            self._write(key, outcome.model.file, record)
        self._done[key] = (outcome.model, record)
        return self._done[key]

    def _paths(self, key: str) -> Iterator[Path]:
        assert self._cache_dir is not None  # noqa: S101  both callers have looked
        yield self._cache_dir / f"{key}.tflite"
        yield self._cache_dir / f"{key}.json"

    def _read(self, key: str) -> tuple[bytes, StepRecord] | None:
        if self._cache_dir is None:
            return None
        path, record = self._paths(key)
        try:
            return path.read_bytes(), StepRecord.model_validate_json(record.read_bytes())
        except (OSError, ValueError):
            return None

    def _write(self, key: str, file: bytes, record: StepRecord) -> None:
        if self._cache_dir is None:
            return
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        path, record_path = self._paths(key)
        for target, content in ((path, file), (record_path, record.model_dump_json().encode())):
            temporary = target.with_suffix(f"{target.suffix}.partial")
            temporary.write_bytes(content)
            temporary.replace(target)  # the record comes last: without it the file does not count
