"""ONNX files: what passes the gate, and what it says of the others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressors.errors import ArchiveError, CompressorError, ConversionError, SignatureError, WeightError
from compressors.inputs.onnx.gate import read_graph
from compressors.inputs.onnx.network import OPERATORS, load
from tests.compressors.inputs.answers import check_answers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")


@pytest.fixture
def changed(foreign: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """The file with one thing changed."""

    def write(change: Callable[[Any], None]) -> Path:
        model = onnx.load(foreign / "shapes.onnx")
        change(model)
        path: Path = tmp_path / "model"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def test_network_answers_as_the_source_did(foreign: Path) -> None:
    network = load(foreign / "shapes.onnx")
    check_answers(network, foreign, "shapes.npz", "scores")
    assert [(one.name, one.shape) for one in network.signature.inputs] == [("picture", (-1, 1, 12, 12))]


def test_layers_keep_the_names_of_the_source(foreign: Path) -> None:
    names = {name for name, module in load(foreign / "shapes.onnx").module.named_modules() if list(module.parameters())}
    assert {"layers.0", "layers.2", "layers.4", "layers.8"} <= names


def _external(model: Any) -> None:  # noqa: ANN401
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def _function(model: Any) -> None:  # noqa: ANN401
    model.functions.add().name = "own"


def _training(model: Any) -> None:  # noqa: ANN401
    model.training_info.add().algorithm.name = "sgd"


def _short(model: Any) -> None:  # noqa: ANN401
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def _huge(model: Any) -> None:  # noqa: ANN401
    model.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]


def _negative(model: Any) -> None:  # noqa: ANN401
    model.graph.initializer[0].dims[0] = -8


def _undefined(model: Any) -> None:  # noqa: ANN401
    model.graph.node[0].input[0] = "nowhere"


def _twice(model: Any) -> None:  # noqa: ANN401
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def _no_output(model: Any) -> None:  # noqa: ANN401
    del model.graph.output[:]


def _text(model: Any) -> None:  # noqa: ANN401
    model.graph.initializer[0].data_type = onnx.TensorProto.STRING


def _unknown_field(model: Any) -> None:  # noqa: ANN401
    model.MergeFromString(b"\xfa\x3f\x01x")  # field 1023


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_external, "external|other file"),
        (_function, "functions of its own"),
        (_training, "a training graph"),
        (_short, "bytes, which is not what"),
        (_huge, "which is not what"),
        (_negative, "of which one is negative"),
        (_undefined, "uses 'nowhere', which nothing before it makes"),
        (_twice, "is made twice"),
        (_no_output, "no input or no output"),
        (_text, "has the type 8 of ONNX"),
        (_unknown_field, "which is not known"),
    ],
)
def test_file_that_reaches_out_or_is_malformed_is_refused(
    changed: Callable[..., Path], change: Callable[[Any], None], says: str
) -> None:
    with pytest.raises(ArchiveError) as refused:
        load(changed(change))
    assert re.search(says, str(refused.value))
    assert "\n" not in str(refused.value)


def _operator(domain: str, name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:  # noqa: ANN401
        model.graph.node[1].domain, model.graph.node[1].op_type, model.graph.node[1].name = domain, name, "layer 7"

    return change


def _branch(model: Any) -> None:  # noqa: ANN401
    attribute = model.graph.node[1].attribute.add()
    attribute.name, attribute.type = "then_branch", onnx.AttributeProto.GRAPH
    attribute.g.name = "inner"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_operator("", "NonMaxSuppression"), "the operator NonMaxSuppression of the layer 'layer 7' is not supported"),
        (_operator("com.evil", "Relu"), "the operator com.evil.Relu of the layer 'layer 7'"),
        (_operator("ai.onnx.ml", "TreeEnsembleRegressor"), "ai.onnx.ml.TreeEnsembleRegressor"),
        (_branch, "a graph within the graph"),
    ],
)
def test_operator_that_is_not_supported_is_named_with_its_layer(
    changed: Callable[..., Path], change: Callable[[Any], None], says: str
) -> None:
    with pytest.raises(ConversionError) as refused:
        load(changed(change))
    assert says in str(refused.value)


def test_old_operator_set_is_refused_with_what_mends_it(changed: Callable[..., Path]) -> None:
    def age(model: Any) -> None:  # noqa: ANN401
        model.opset_import[0].version = 9

    with pytest.raises(ArchiveError, match=r"operator set 9, and 13 is the oldest .*convert_version"):
        load(changed(age))


def test_free_length_besides_the_batch_is_refused(changed: Callable[..., Path]) -> None:
    def free(model: Any) -> None:  # noqa: ANN401
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"

    with pytest.raises(SignatureError, match="picture has a free dimension besides the batch"):
        load(changed(free))


def test_constant_batch_is_refused_with_the_line_that_mends_it(changed: Callable[..., Path]) -> None:
    def fix(model: Any) -> None:  # noqa: ANN401
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    with pytest.raises(SignatureError, match=r"constant batch 4: .*dynamic_axes=\{'picture': \{0: 'batch'\}\}"):
        load(changed(fix))


def test_nan_weight_is_refused_by_name(changed: Callable[..., Path]) -> None:
    def spoil(model: Any) -> None:  # noqa: ANN401
        tensor = next(one for one in model.graph.initializer if one.name == "layers.8.weight")
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        values[:2] = np.nan
        tensor.raw_data = values.tobytes()

    with pytest.raises(WeightError, match=r"layers\.8\.weight holds 2 values that are NaN or infinite"):
        load(changed(spoil))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
def test_truncated_file_is_refused(foreign: Path, tmp_path: Path, share: float) -> None:
    content = (foreign / "shapes.onnx").read_bytes()
    path = tmp_path / "model"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArchiveError):
        read_graph(path, OPERATORS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(foreign: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((foreign / "shapes.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        read_graph(path, OPERATORS)
    except CompressorError as exc:
        assert "\n" not in str(exc)  # noqa: PT017
