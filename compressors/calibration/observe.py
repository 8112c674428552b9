"""Run a float LiteRT file over rows and look at every activation on the way."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from compressors.calibration.histogram import Histogram
from compressors.calibration.rows import calibrating, require_rows
from compressors.errors import ModelRunError
from compressors.files.litert import read_graphs, tensor_name
from compressors.running import first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split

MAX_VALUES = 1 << 32  # of all activations over all rows: about 15 s for a photo network


def observe(
    file: bytes, split: Split, *, counting: bool, threads: int = 1, max_values: int = MAX_VALUES
) -> dict[str, Histogram]:
    """What each activation was, over rows that are spread evenly over a split.

    Args:
        file: a float `.tflite` with a batch of one and one subgraph.
        split: its inputs, in the order of the file's.
        counting: whether values are counted, or only their extremes kept, which takes half the time.
        threads: of the interpreter.
        max_values: of all activations over all rows: networks with many activations see fewer rows.

    Returns:
        A histogram for each float tensor that is computed or given, by its name.

    Raises:
        DataError: the split has no rows.
        ModelRunError: the file does not run here; converters write operators that the interpreter has not.
    """
    require_rows(split)
    try:
        seen = _seen(file, split, counting=counting, threads=threads, max_values=max_values)
    except (ValueError, RuntimeError) as exc:  # the interpreter has no error of its own
        raise ModelRunError(f"the litert file does not run here: {first_line(exc)}") from exc
    return {name: seen[index] for index, name in _activations(file).items()}


def _seen(file: bytes, split: Split, *, counting: bool, threads: int, max_values: int) -> dict[int, Histogram]:
    """The same by the index of each tensor."""
    interpreter = _interpreter(file, threads)
    inputs = list(zip(interpreter.get_input_details(), split.inputs.values(), strict=True))
    _run(interpreter, inputs, 0)  # some shapes are known only then
    seen = {index: Histogram() for index in _activations(file)}
    values = sum(interpreter.get_tensor(index).size for index in seen)
    for row in calibrating(split, limit=max(1, max_values // max(values, 1))):
        _run(interpreter, inputs, row)
        for index, histogram in seen.items():
            found = interpreter.get_tensor(index)
            histogram.add(found) if counting else histogram.widen(found)
    return seen


def _run(interpreter: Any, inputs: list[tuple[Any, NDArray[np.generic]]], row: int) -> None:  # noqa: ANN401
    for details, array in inputs:  # int64 arguments are int32 in the file
        interpreter.set_tensor(details["index"], array[row : row + 1].astype(details["dtype"]))
    interpreter.invoke()


def _interpreter(file: bytes, threads: int) -> Any:  # noqa: ANN401  the package ships no types
    with warnings.catch_warnings(action="ignore"):  # that it keeps every tensor, which it must here
        interpreter = Interpreter(model_content=file, num_threads=threads, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    return interpreter


def _activations(file: bytes) -> dict[int, str]:
    """Index and name of each float tensor of the main graph that is given or computed; converters leave others."""
    graph = next(iter(read_graphs(file)))
    made = {*graph.inputs, *(int(index) for _, operator in graph.operators for index in operator.outputs)}
    return {
        index: tensor_name(tensor)
        for index, tensor in enumerate(graph.tensors)
        if index in made and tensor.type == schema.TensorType.FLOAT32
    }
