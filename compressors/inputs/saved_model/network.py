"""A SavedModel as the float LiteRT file that TensorFlow's converter makes of it: it answers, but has no layers."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressors.errors import ConversionError, ExtraMissingError, SignatureError
from compressors.inputs.litert import gate as litert_gate
from compressors.inputs.litert.network import from_file
from compressors.inputs.saved_model.gate import check_graph
from compressors.inputs.saved_model.unpacking import unpack

if TYPE_CHECKING:
    from compressors.inputs.program import FloatModel

SIGNATURES = ("serving_default", "serve")
_NAME_CHARS = 120


def load(path: Path) -> FloatModel:
    """Load a SavedModel behind its gate.

    Raises:
        ArchiveError: it may not be loaded, or is damaged.
        ConversionError: it does more than compute, or has no counterpart in LiteRT.
        SignatureError: its inputs or outputs are not tensors that an app can be shown.
        WeightError: a weight is NaN or infinite.
        ExtraMissingError: TensorFlow is not installed here.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(path, folder / "model")
        check_graph(folder / "model" / "saved_model.pb")
        converted = folder / "model.tflite"
        converted.write_bytes(_converted(folder / "model"))
        return from_file(litert_gate.read_file(converted))


def _converted(folder: Path) -> bytes:
    tensorflow = _tensorflow()
    with warnings.catch_warnings(action="ignore"):
        try:
            model = tensorflow.saved_model.load(str(folder))
        except Exception as exc:  # TensorFlow raises whatever it happens to hit
            raise ConversionError(
                f"TensorFlow {tensorflow.__version__} can't load this SavedModel ({_said(exc)}): export it again"
            ) from exc
        function = _one_sample(tensorflow, model)
        try:
            content = tensorflow.lite.TFLiteConverter.from_concrete_functions([function], model).convert()
        except Exception as exc:
            said = _said(exc)
            raise ConversionError(
                f"TensorFlow can't convert this SavedModel to LiteRT ({said}{_place(function, said)}): export the "
                "model without what it names, or push it as .keras"
            ) from exc
    return bytes(content)


def _tensorflow() -> Any:  # noqa: ANN401  tensorflow ships no types
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf  # noqa: PLC0415  an extra
    except ImportError as exc:
        raise ExtraMissingError(
            "a SavedModel needs the extra `tensorflow` where jobs run: pip install shoal[tensorflow]; or push .keras"
        ) from exc
    tf.get_logger().setLevel(logging.ERROR)
    return tf


def _one_sample(tensorflow: Any, model: Any) -> Any:  # noqa: ANN401
    """The serving signature with a batch of one: then shapes are numbers, and need no operators."""
    key = next((one for one in SIGNATURES if one in model.signatures), None)
    if key is None:
        raise SignatureError(f"the SavedModel has no signature {SIGNATURES[0]!r}: export it with model.export")
    signature = model.signatures[key]
    specs = {}
    for name, spec in signature.structured_input_signature[1].items():
        lengths = spec.shape.as_list() if spec.shape.rank else []
        if not lengths or any(length is None for length in lengths[1:]):
            raise SignatureError(
                f"the input {name} has the shape {spec.shape}: export the model with constant lengths after the batch"
            )
        if lengths[0] not in {None, 1}:
            raise SignatureError(f"the input {name} has the constant batch {lengths[0]}: export it with a free one")
        specs[name] = tensorflow.TensorSpec([1, *lengths[1:]], spec.dtype, name)

    def serve(**inputs: Any) -> Any:  # noqa: ANN401
        return signature(**inputs)

    return tensorflow.function(serve).get_concrete_function(**specs)


def _said(exc: Exception) -> str:
    """The first thing that the converter complains of, without the places in our own code that lead there."""
    lines = [line for line in str(exc).strip().splitlines() if line.strip()]
    first = lines[0] if lines else type(exc).__name__
    return first.rpartition("error: ")[2][:300]


def _place(function: Any, said: str) -> str:  # noqa: ANN401
    """The first layer with the operator that the converter names; it tells lines of its own text, which nobody has."""
    operator = re.search(r"'tf\.(\w+)'", said)
    if operator is None:
        return ""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for called in graph.library.function for node in called.node_def)]
    place = next((node.name for node in nodes if node.op == operator[1]), "")
    return f", first in the layer {place[:_NAME_CHARS]!r}" if place else ""
