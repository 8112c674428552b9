"""Float LiteRT files: what passes the gate, what it says of the others, and the network that a file is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ArchiveError, CompressorError, ConversionError, SignatureError, WeightError
from compressors.inputs.litert.gate import SIGNATURE_KEY, read_file
from compressors.inputs.litert.network import load
from compressors.step import Model, content_of
from compressors.steps import STEPS
from tests.compressors.inputs.answers import check_answers
from tests.compressors.steps.applying import apply, context_of, first_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def changed(foreign: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """The file with one thing changed."""

    def write(change: Callable[[Any], None]) -> Path:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray((foreign / "shapes.tflite").read_bytes()))
        change(model)
        path = tmp_path / "model"
        path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
        return path

    return write


def test_network_of_a_file_answers_as_the_source_did(foreign: Path) -> None:
    network = load(foreign / "shapes.tflite")
    check_answers(network, foreign, "keras-shapes.npz", "output_0")
    assert network.signature.inputs[0].shape == (-1, 12, 12, 1)
    assert network.parameters == 739
    assert network.litert_file is not None


@pytest.mark.parametrize("io", ["int8", "uint8", "float32"])
def test_file_is_quantized_like_any_export(foreign: Path, io: str) -> None:
    network = load(foreign / "shapes.tflite")
    rows = evaluation_rows.load(foreign / "keras-shapes.npz", network.signature, Task.CLASSIFICATION)
    context = context_of(rows, Task.CLASSIFICATION)
    quantized = apply(STEPS["static-int8"], Model.pushed(network), context, io=io).model
    ends = {one.dtype for one in _ends(content_of(quantized))}
    assert ends == {np.dtype(io)}
    agreement = np.mean(
        first_output(quantized, rows.test).argmax(1) == first_output(Model.pushed(network), rows.test).argmax(1)
    )
    assert agreement > 0.97


def _ends(file: bytes) -> list[Any]:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(model_content=file)
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    return [np.empty(0, one["dtype"]) for one in details]


def test_file_without_a_signature_gets_one(changed: Callable[..., Path]) -> None:
    def forget(model: Any) -> None:  # noqa: ANN401
        model.signatureDefs = []

    path = changed(forget)
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(read_file(path)))
    assert [one.signatureKey.decode() for one in model.signatureDefs] == [SIGNATURE_KEY]
    assert load(path).signature.inputs[0].shape == (-1, 12, 12, 1)


def test_two_signatures_are_refused(changed: Callable[..., Path]) -> None:
    def double(model: Any) -> None:  # noqa: ANN401
        model.signatureDefs = [model.signatureDefs[0], model.signatureDefs[0]]

    with pytest.raises(SignatureError, match="has 2 signatures"):
        read_file(changed(double))


def test_integer_file_is_told_to_be_no_float_model(foreign: Path, tmp_path: Path) -> None:
    network = load(foreign / "shapes.tflite")
    context = context_of(
        evaluation_rows.load(foreign / "keras-shapes.npz", network.signature, Task.CLASSIFICATION), Task.CLASSIFICATION
    )
    path = tmp_path / "model"
    for step in ("static-int8", "dynamic-int8"):
        path.write_bytes(content_of(apply(STEPS[step], Model.pushed(network), context).model))
        with pytest.raises(ConversionError, match=r"is no float model: \d+ of its \d+ tensors are quantized"):
            read_file(path)


def test_custom_operator_is_refused_by_name(changed: Callable[..., Path]) -> None:
    def customise(model: Any) -> None:  # noqa: ANN401
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = b"FlexReadFile"

    with pytest.raises(ConversionError, match="custom operator 'FlexReadFile'"):
        read_file(changed(customise))


def test_state_between_samples_is_refused(changed: Callable[..., Path]) -> None:
    def remember(model: Any) -> None:  # noqa: ANN401
        model.operatorCodes[0].builtinCode = schema.BuiltinOperator.VAR_HANDLE

    with pytest.raises(ConversionError, match="VAR_HANDLE, which keeps state"):
        read_file(changed(remember))


def test_weights_in_other_files_are_refused(changed: Callable[..., Path]) -> None:
    def point_elsewhere(model: Any) -> None:  # noqa: ANN401
        group = schema.ExternalBufferGroupT()
        group.name = b"/etc/passwd"
        model.externalBufferGroups = [group]

    with pytest.raises(ArchiveError, match="weights in other files"):
        read_file(changed(point_elsewhere))


def test_nan_weight_is_refused_by_name(changed: Callable[..., Path]) -> None:
    def spoil(model: Any) -> None:  # noqa: ANN401
        graph = model.subgraphs[0]
        kernel = next(t for t in graph.tensors if list(t.shape) == [3, 144])
        values = np.frombuffer(bytes(model.buffers[kernel.buffer].data), np.float32).copy()
        values[5] = np.nan
        model.buffers[kernel.buffer].data = np.frombuffer(values.tobytes(), np.uint8)

    with pytest.raises(WeightError, match="holds 1 values that are NaN or infinite"):
        read_file(changed(spoil))


def test_free_length_besides_the_batch_is_refused(changed: Callable[..., Path]) -> None:
    def free(model: Any) -> None:  # noqa: ANN401
        graph = model.subgraphs[0]
        graph.tensors[graph.inputs[0]].shapeSignature = np.array([-1, -1, 12, 1], np.int32)

    with pytest.raises(SignatureError, match="free dimension besides the batch"):
        load(changed(free))


def test_metadata_that_leads_nowhere_is_refused(changed: Callable[..., Path]) -> None:
    def mislead(model: Any) -> None:  # noqa: ANN401
        model.metadata[0].buffer = 10_000

    with pytest.raises(ArchiveError, match=r"is a damaged \.tflite file"):
        read_file(changed(mislead))


def test_signature_of_a_tensor_that_is_not_there_is_survived(changed: Callable[..., Path]) -> None:
    def mislead(model: Any) -> None:  # noqa: ANN401
        model.signatureDefs[0].inputs[0].tensorIndex = 10_000

    assert load(changed(mislead)).signature.inputs[0].name == "input_0"


@pytest.mark.parametrize("share", [0.005, 0.3, 0.9, 0.999])
def test_truncated_file_is_refused(foreign: Path, tmp_path: Path, share: float) -> None:
    content = (foreign / "shapes.tflite").read_bytes()
    path = tmp_path / "model"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArchiveError, match="copy it again"):
        read_file(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(foreign: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((foreign / "shapes.tflite").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        read_file(path)
    except CompressorError as exc:
        assert "\n" not in str(exc)  # noqa: PT017
