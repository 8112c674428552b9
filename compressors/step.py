"""The one shape of all steps: a model and its context go in, a model and a record of what was done come out.

A step declares the form that it takes and the form that it gives, so that a recipe whose order cannot work is refused
before anything is computed. It never changes the network that it was given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from compressors.contract import Part
from compressors.errors import RecipeError
from compressors.files.formats import Form

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from compressors.contract import Task
    from compressors.data.evaluation_rows import Split
    from compressors.inputs.program import FloatModel
    from compressors.metrics import Metric

__all__ = ["AnyStep", "Context", "Form", "Model", "ModelFile", "Outcome", "Parameters", "Step", "content_of"]


@dataclass(frozen=True)
class ModelFile:
    """A model in the format of a target."""

    form: Form
    content: bytes


@dataclass(frozen=True)
class Model:
    """A model on its way: the network, and once it is exported the file that it became."""

    network: FloatModel
    file: ModelFile | None = None

    @classmethod
    def pushed(cls, network: FloatModel) -> Model:
        """A model before any step: its layers, or the file that was pushed in their place."""
        return cls(network, None if network.litert_file is None else ModelFile(Form.LITERT, network.litert_file))

    @property
    def form(self) -> Form:
        """What the next step works on."""
        return Form.NETWORK if self.file is None else self.file.form


def content_of(model: Model) -> bytes:
    """The bytes of an exported model.

    Raises:
        RecipeError: it is not exported; `recipes.check` refuses such a recipe before.
    """
    if model.file is None:
        raise RecipeError("this step works on a file: put an export step before it")
    return model.file.content


@dataclass(frozen=True)
class Context:
    """What a step may look at. The test split is not here: it is read once, for the report."""

    calibration: Split
    selection: Split
    task: Task
    metric: Metric
    train: Split | None = None  # the rows of `--train`; a target of -1 (a class) or NaN (a number) is unlabelled
    teacher: FloatModel | None = None  # the float model as it was pushed
    threads: int = 1
    seed: int = 0
    device: str = "cpu"  # where networks are trained: cpu, or cuda; `training.device` says which
    cache_dir: Path | None = None  # where steps keep what is dear to compute and depends on content alone


@dataclass(frozen=True)
class Outcome:
    """What a step gives: the model, one sentence, what it did to each layer, and figures that a judge may need."""

    model: Model
    summary: str
    layers: dict[str, str]
    figures: dict[str, float] = field(default_factory=dict)
    warning: str = ""  # of what was given, not of what was done: it is told with the choice, too


class Parameters(Part):
    """The parameters of a step: plain data with defaults, so that a recipe can be stored, hashed and searched over."""


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Step(Generic[P]):
    """A compression step.

    `apply` may raise any `compressors.errors.CompressorError`, `NoEffectError` among them: a step that changed nothing
    is an error.
    """

    name: str
    parameters: type[P]
    apply: Callable[[Model, Context, P], Outcome]
    takes: Form
    gives: Form
    trains: bool = False  # it needs the rows of `--train`


AnyStep = Step[Any]
