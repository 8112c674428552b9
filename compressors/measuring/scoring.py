"""What a model is worth while it is being made: its outputs for some rows, in whatever form it is at the moment.

Files run in this process, on a runtime of their format and with the delegate that suits it unless another is asked for:
this is the job's own work and measures no latency.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compressors.errors import ModelRunError, RecipeError
from compressors.files.formats import FORMATS
from compressors.metrics import value_of
from edge_agent.errors import EdgeAgentError
from edge_agent.runtimes.convert import BoundModel, bind
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split
    from compressors.files.formats import Form
    from compressors.metrics import Metric
    from compressors.step import Model
    from edge_agent.protocol.profile import Delegate, RuntimeName

    Answer = Callable[[Mapping[str, NDArray[np.generic]]], dict[str, NDArray[np.generic]]]


def scoring_runtime(form: Form) -> tuple[RuntimeName, Delegate]:
    """Where this process runs files of a format.

    Raises:
        RecipeError: nowhere, they run on another processor.
    """
    found = FORMATS[form].scored_on
    if found is None:
        raise RecipeError(f"a file for {form} does not run here: put max_drop on a step before it is compiled")
    return found


@contextmanager
def answering(model: Model, delegate: Delegate | None = None) -> Iterator[Answer]:
    """A function from inputs to the outputs of a model, by name; a file is loaded once.

    Raises:
        ModelRunError: its file does not load or run here.
    """
    if model.file is None:
        yield model.network.run
        return
    signature = model.network.signature
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        path.write_bytes(model.file.content)
        runtime, usual = scoring_runtime(model.file.form)
        try:
            loaded = open_runtime(runtime).load(path, threads=1, delegate=usual if delegate is None else delegate)
            inputs, outputs = bind(signature.inputs, loaded.inputs), bind(signature.outputs, loaded.outputs)
            yield BoundModel(loaded, signature, inputs, outputs).run
        except EdgeAgentError as exc:
            raise ModelRunError(f"the {model.file.form} file does not run here: {exc}") from exc


def outputs_of(model: Model, split: Split, delegate: Delegate | None = None) -> dict[str, NDArray[np.generic]]:
    """The outputs of a model for all rows of a split, by output name.

    Raises:
        ModelRunError: its file does not load or run here.
    """
    with answering(model, delegate) as answer:
        return answer(split.inputs)


def score(model: Model, split: Split, metric: Metric) -> float:
    """The metric of a model on a split."""
    first = model.network.signature.outputs[0].name
    return value_of(metric, outputs_of(model, split)[first], split.target, query=split.query)
