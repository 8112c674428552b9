"""Which Keras configuration may be turned into a model: layers of Keras itself that compute, and nothing else.

Loading a configuration makes Python objects by name. Among them are some that run code of the upload (Lambda, custom
classes) and some that read files (lookup tables by path, wrapped torch modules and SavedModels). `safe_mode` of Keras
refuses some of these; here only what is on the list passes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compressors.errors import ArchiveError, ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_JSON_BYTES = 64 << 20
HOW_TO_SAVE = "save it with model.save('model.keras')"
_NAME_CHARS = 120

_MODELS = {"Sequential", "Functional", "Model"}
_DIMENSIONAL: tuple[str, ...] = (
    "Conv{}",
    "DepthwiseConv{}",
    "SeparableConv{}",
    "Conv{}Transpose",
    "MaxPooling{}",
    "AveragePooling{}",
)
_DIMENSIONAL += ("GlobalMaxPooling{}", "GlobalAveragePooling{}", "Cropping{}", "ZeroPadding{}", "UpSampling{}")
_DIMENSIONAL += ("SpatialDropout{}", "MaxPool{}", "AvgPool{}", "GlobalMaxPool{}", "GlobalAvgPool{}")
_LAYERS = {name.format(rank) for name in _DIMENSIONAL for rank in ("1D", "2D")} | {
    "InputLayer", "Dense", "EinsumDense", "Embedding", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax",
    "BatchNormalization", "LayerNormalization", "GroupNormalization", "UnitNormalization", "RMSNormalization",
    "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization", "Identity",
    "Flatten", "Reshape", "Permute", "RepeatVector", "Rescaling", "Normalization",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot",
    "LSTM", "GRU", "SimpleRNN", "LSTMCell", "GRUCell", "SimpleRNNCell", "RNN", "StackedRNNCells", "Bidirectional",
    "TimeDistributed", "Attention", "AdditiveAttention", "MultiHeadAttention", "GroupedQueryAttention",
}  # fmt: skip
_INITIALIZERS = {
    "Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Identity",
    "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform", "Orthogonal",
    "OrthogonalInitializer", "IdentityInitializer",
}  # fmt: skip
_OTHERS = {"L1", "L2", "L1L2", "OrthogonalRegularizer", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"}
_OTHERS |= {"DTypePolicy", "Policy", "__tuple__", "__keras_tensor__", "TensorShape"}
_ALLOWED = _MODELS | _LAYERS | _INITIALIZERS | _OTHERS
_LAMBDAS, _FUNCTIONS = {"Lambda", "__lambda__"}, {"function"}


def check_configuration(text: str | bytes) -> None:
    """Whether all that a model's configuration names may be made.

    Raises:
        ArchiveError: it is no configuration of a model.
        ConversionError: it names code of its own, or a layer that is not supported.
    """
    if len(text) > MAX_JSON_BYTES:
        raise ArchiveError(f"the model's configuration has {len(text)} bytes, at most {MAX_JSON_BYTES} are allowed")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ArchiveError(f"the model's configuration is not JSON: {HOW_TO_SAVE}") from exc
    kind = str(document.get("class_name"))[:_NAME_CHARS] if isinstance(document, dict) else "no object"
    if kind not in _MODELS:
        raise ConversionError(
            f"the model is a {kind}: only Sequential and functional models are described by data; rebuild it as one of "
            "these, or export it to ONNX"
        )
    document.pop("compile_config", None)  # optimizer, loss and metrics: Keras is told to leave them out
    for item in _objects(document):
        _check(item)


def _objects(document: object) -> Iterator[dict[str, Any]]:
    """Every object that Keras would make."""
    pending = [document]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            if "class_name" in current:
                yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _check(item: dict[str, Any]) -> None:
    kind, module, registered = str(item["class_name"]), item.get("module"), item.get("registered_name")
    config = item.get("config")
    name = str(config.get("name") or kind)[:_NAME_CHARS] if isinstance(config, dict) else str(config)[:_NAME_CHARS]
    if kind in _LAMBDAS:
        raise ConversionError(f"{name!r} is a Lambda, which holds Python code: replace it by layers of Keras")
    if kind in _FUNCTIONS:
        raise ConversionError(f"the model calls the function {name!r}, which is not of Keras: use one that is")
    if not (registered is None or registered in ("", kind)) or not (
        module is None or module == "keras" or str(module).startswith("keras.")
    ):
        raise ConversionError(
            f"{name!r} is a {str(registered or kind)[:_NAME_CHARS]} of {str(module)[:_NAME_CHARS]}, a class of its "
            "own, whose code does not travel with the model: replace it by layers of Keras, or export to ONNX"
        )
    if kind not in _ALLOWED:
        raise ConversionError(
            f"the layer {name!r} is a {kind[:_NAME_CHARS]}, which is not supported: do its work before the model, "
            "or export the model to ONNX"
        )
