"""Inference requests and answers: JSON and the binary tensor extension, to and from arrays.

Everything that a client sends is checked here against the signature; what does not fit is a `BadRequestError` with one
sentence. A number that JSON can't write (NaN, infinity) travels as null in a JSON answer; binary carries it.

Source: Open Inference Protocol v2, and Triton's "binary tensor data extension".
"""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from edge_agent.protocol.signature import Datatype
from edge_agent.runner.http import (
    BINARY,
    JSON_LENGTH,
    SHOWN_CHARS,
    Answer,
    BadRequestError,
    TooLargeError,
    shown,
)
from edge_agent.runtimes.convert import fits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.protocol.signature import ModelSignature, TensorSpec
    from edge_agent.runtimes.base import Array

MAX_JSON_BYTES = 16 << 20  # parsing takes up to twelve times as much address space
ID_LIMIT = 256


class InferRequest(NamedTuple):
    """A request that has the right form."""

    arrays: dict[str, Array]
    outputs: tuple[tuple[str, bool], ...]  # name, binary
    id: str | None


class TensorCodec:
    """Reads requests for one signature and writes its answers."""

    def __init__(self, signature: ModelSignature) -> None:
        self._inputs = {spec.name: spec for spec in signature.inputs}
        self._outputs = {spec.name: spec for spec in signature.outputs}
        self._all = {binary: tuple((name, binary) for name in self._outputs) for binary in (False, True)}

    def decode(self, body: bytes, json_length: bytes | None) -> InferRequest:
        """Read a request.

        Args:
            body: JSON, followed by the binary tensors when there are any.
            json_length: the header `Inference-Header-Content-Length`.

        Raises:
            BadRequestError: what is wrong, in one sentence.
            TooLargeError: the JSON part is beyond `MAX_JSON_BYTES`.
            MemoryError: there is no room to parse it.
        """
        head, tail = _split(body, json_length)
        if len(head) > MAX_JSON_BYTES:
            raise TooLargeError(
                f"the JSON of a request may take {MAX_JSON_BYTES} bytes: send the tensors as binary data"
            )
        try:
            document = orjson.loads(head)
        except (orjson.JSONDecodeError, RecursionError) as exc:
            if "Not enough memory" in str(exc):  # the parser's own words for it
                raise MemoryError(str(exc)) from exc
            raise BadRequestError(f"the request is not JSON: {str(exc)[:SHOWN_CHARS]}") from exc
        if not isinstance(document, dict):
            raise BadRequestError("the request must be a JSON object with a list of inputs")
        arrays = self._read_inputs(document.get("inputs"), tail)
        return InferRequest(arrays, self._read_outputs(document), _read_id(document))

    def _read_inputs(self, inputs: Any, tail: memoryview | None) -> dict[str, Array]:  # noqa: ANN401  unchecked JSON
        if not isinstance(inputs, list) or not inputs:
            raise BadRequestError(f"inputs must be a list of the tensors {list(self._inputs)}")
        arrays: dict[str, Array] = {}
        offset = 0
        for raw in inputs:
            spec = self._spec_of(raw, arrays)
            shape = _read_shape(raw.get("shape"), spec)
            size_bytes = _binary_size(raw, spec)
            if size_bytes is None:
                arrays[spec.name] = _from_json(raw.get("data"), shape, spec)
                continue
            if tail is None:
                raise BadRequestError(
                    f"input {spec.name} has binary_data_size, but the header Inference-Header-Content-Length is missing"
                )
            arrays[spec.name] = _from_binary(tail[offset : offset + size_bytes], size_bytes, shape, spec)
            offset += size_bytes
        if tail is not None and offset != len(tail):
            raise BadRequestError(f"{len(tail)} binary bytes follow the JSON, its inputs account for {offset}")
        if missing := [name for name in self._inputs if name not in arrays]:
            raise BadRequestError(f"the inputs {missing} are missing")
        return arrays

    def _spec_of(self, raw: Any, seen: Mapping[str, Array]) -> TensorSpec:  # noqa: ANN401  unchecked JSON
        if not isinstance(raw, dict):
            raise BadRequestError("each input must be an object with name, shape, datatype and data")
        name = raw.get("name")
        spec = self._inputs.get(name) if isinstance(name, str) else None
        if spec is None:
            raise BadRequestError(f"there is no input {shown(name)}, the inputs are {list(self._inputs)}")
        if spec.name in seen:
            raise BadRequestError(f"input {spec.name} is given twice")
        if raw.get("datatype") != spec.datatype:
            raise BadRequestError(
                f"input {spec.name} has the datatype {spec.datatype}, not {shown(raw.get('datatype'))}"
            )
        return spec

    def _read_outputs(self, document: dict[str, Any]) -> tuple[tuple[str, bool], ...]:
        parameters = _parameters(document, "the request")
        default = parameters.get("binary_data_output", False) is True
        wanted = document.get("outputs")
        if wanted is None or wanted == []:
            return self._all[default]
        if not isinstance(wanted, list) or len(wanted) > len(self._outputs):
            raise BadRequestError(f"outputs must be a list of some of {list(self._outputs)}")
        outputs: dict[str, bool] = {}
        for raw in wanted:
            name = raw.get("name") if isinstance(raw, dict) else None
            if not isinstance(name, str) or name not in self._outputs or name in outputs:
                raise BadRequestError(f"outputs names {shown(name)}: name each of {list(self._outputs)} at most once")
            parameters = _parameters(raw, f"output {name}")
            if "classification" in parameters:
                raise BadRequestError(f"output {name} asks for classification, which is not offered: sort the scores")
            outputs[name] = parameters.get("binary_data", default) is True
        return tuple(outputs.items())

    def encode(self, request: InferRequest, results: Mapping[str, Array], *, model: str, version: str) -> Answer:
        """Write the answer to a request, in the form it asked for."""
        document: dict[str, Any] = {"model_name": model, "model_version": version}
        if request.id is not None:
            document["id"] = request.id
        outputs, binary = [], []
        for name, as_binary in request.outputs:
            array = np.ascontiguousarray(results[name])
            tensor: dict[str, Any] = {"name": name, "datatype": self._outputs[name].datatype, "shape": array.shape}
            if as_binary:
                content = array.tobytes()
                binary.append(content)
                tensor["parameters"] = {"binary_data_size": len(content)}
            else:
                tensor["data"] = array.ravel() if array.dtype != np.float16 else array.ravel().astype(np.float32)
            outputs.append(tensor)
        document["outputs"] = outputs
        head = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        if not binary:
            return Answer(200, head)
        return Answer(200, b"".join([head, *binary]), BINARY, ((JSON_LENGTH, b"%d" % len(head)),))


def _split(body: bytes, json_length: bytes | None) -> tuple[bytes | memoryview, memoryview | None]:
    if json_length is None:
        return body, None
    if not json_length.isdigit() or len(json_length) > 12:  # noqa: PLR2004  more digits than any body has bytes
        raise BadRequestError("Inference-Header-Content-Length must be a whole number of bytes")
    length = int(json_length)
    if length == 0:
        raise BadRequestError("a request without its JSON part is not offered: Inference-Header-Content-Length is 0")
    if length > len(body):
        raise BadRequestError(f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes")
    view = memoryview(body)
    return view[:length], view[length:]


def _parameters(raw: dict[str, Any], owner: str) -> dict[str, Any]:
    parameters = raw.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadRequestError(f"the parameters of {owner} must be an object")
    if "shared_memory_region" in parameters:
        raise BadRequestError(f"{owner} names a shared memory region: that extension is not offered")
    return parameters


def _read_id(document: dict[str, Any]) -> str | None:
    identifier = document.get("id")
    if identifier is not None and (not isinstance(identifier, str) or len(identifier) > ID_LIMIT):
        raise BadRequestError(f"id must be a text of at most {ID_LIMIT} characters")
    return identifier


def _read_shape(raw: Any, spec: TensorSpec) -> tuple[int, ...]:  # noqa: ANN401  unchecked JSON
    if not isinstance(raw, list) or any(type(length) is not int for length in raw):
        raise BadRequestError(f"the shape of input {spec.name} must be a list of whole numbers")
    shape = tuple(raw)
    if min(shape, default=1) < 1:
        raise BadRequestError(f"the shape of input {spec.name} must be a list of numbers above 0, got {shown(raw)}")
    if not fits(shape, spec):
        raise BadRequestError(f"input {spec.name} has the shape {list(spec.shape)}, got {shown(raw)}")
    return shape


def _binary_size(raw: dict[str, Any], spec: TensorSpec) -> int | None:
    parameters = _parameters(raw, f"input {spec.name}")
    size_bytes = parameters.get("binary_data_size")
    if size_bytes is None:
        return None
    if type(size_bytes) is not int or size_bytes < 0:
        raise BadRequestError(f"binary_data_size of input {spec.name} must be a whole number of bytes")
    if "data" in raw:
        raise BadRequestError(f"input {spec.name} brings both data and binary_data_size: send one of them")
    return size_bytes


def _from_binary(content: memoryview, size_bytes: int, shape: tuple[int, ...], spec: TensorSpec) -> Array:
    needed_bytes = math.prod(shape) * spec.datatype.size_bytes
    if size_bytes != needed_bytes:
        raise BadRequestError(
            f"input {spec.name} of shape {list(shape)} takes {needed_bytes} bytes, binary_data_size is {size_bytes}"
        )
    if len(content) != size_bytes:
        raise BadRequestError(f"input {spec.name} takes {size_bytes} binary bytes, only {len(content)} follow the JSON")
    if spec.datatype is Datatype.BOOL:
        flags: Array = np.frombuffer(content, dtype=np.uint8) != 0
        return flags.reshape(shape)
    dtype = np.dtype(spec.datatype.numpy_name).newbyteorder("<")
    # a copy is aligned and writable, which interpreters ask for
    return np.frombuffer(content, dtype=dtype).astype(spec.datatype.numpy_name).reshape(shape)


def _from_json(data: Any, shape: tuple[int, ...], spec: TensorSpec) -> Array:  # noqa: ANN401  unchecked JSON
    if not isinstance(data, list):
        raise BadRequestError(f"input {spec.name} has no list of data")
    values, nested = _flatten(data, spec)
    if nested is not None and nested != shape:
        raise BadRequestError(f"the nested data of input {spec.name} has the shape {list(nested)}, not {list(shape)}")
    if len(values) != math.prod(shape):
        raise BadRequestError(
            f"input {spec.name} of shape {list(shape)} takes {math.prod(shape)} numbers, got {len(values)}"
        )
    return _typed(np.array(values), spec).reshape(shape)


def _flatten(data: list[Any], spec: TensorSpec) -> tuple[list[Any], tuple[int, ...] | None]:
    """The numbers in row-major order, and their shape if they were nested.

    Looked through before numpy sees them: among texts numpy would make room for the longest in every element.
    """
    nested = [len(data)]
    while (kinds := set(map(type, data))) == {list}:
        lengths = set(map(len, data))
        if len(nested) > len(spec.shape) or len(lengths) != 1:
            raise BadRequestError(f"the nested data of input {spec.name} is no rectangle of shape {list(spec.shape)}")
        nested.append(lengths.pop())
        data = list(chain.from_iterable(data))
    if not (kinds <= {int, float} or kinds == {bool}):
        raise BadRequestError(f"the data of input {spec.name} must be numbers that {spec.datatype} can hold")
    return data, tuple(nested) if len(nested) > 1 else None


def _typed(array: Array, spec: TensorSpec) -> Array:
    """Numbers of JSON in the type of the signature; only what it can hold."""
    wanted = np.dtype(spec.datatype.numpy_name)
    kind = array.dtype.kind
    if wanted.kind == "f" and kind in "fiu":
        with np.errstate(over="ignore"):
            return array.astype(wanted)
    if wanted.kind == "b" and (kind == "b" or (kind in "iu" and bool(np.isin(array, (0, 1)).all()))):
        return array.astype(wanted)
    if wanted.kind in "iu" and kind in "fiu":
        bounds = np.iinfo(wanted)
        whole = kind != "f" or bool((np.isfinite(array) & (np.rint(array) == array)).all())
        if whole and int(array.min()) >= bounds.min and int(array.max()) <= bounds.max:
            return array.astype(wanted)
    raise BadRequestError(f"the data of input {spec.name} must be numbers that {spec.datatype} can hold")
