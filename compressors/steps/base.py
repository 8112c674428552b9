"""The one shape of all steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compressors.data import Split
    from compressors.program import FloatModel


@dataclass(frozen=True)
class Model:
    """A model on its way: the float network, and once it is exported the file that it became."""

    network: FloatModel
    file: bytes | None = None


@dataclass(frozen=True)
class Context:
    """What a step may look at. The test split is not here: it is read once, for the report."""

    calibration: Split
    selection: Split
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a step gives: the model, one sentence, and what it did to each layer."""

    model: Model
    summary: str
    layers: dict[str, str]


class Step(Protocol):
    """A compression step; its parameters are data, so that a recipe can be stored and hashed."""

    def __call__(self, model: Model, context: Context, parameters: Mapping[str, Any], /) -> Outcome:
        """Apply the step.

        Raises:
            compressors.errors.RecipeError: the model is not in the form that this step needs.
            compressors.errors.NoEffectError: nothing was changed.
        """
        ...
