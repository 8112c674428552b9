"""Each operator of ONNX against ONNX Runtime, in graphs of a single layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compressors.errors import ConversionError
from compressors.inputs.onnx.network import load

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

ROWS = 3
RNG = np.random.default_rng(5)
Constants = dict[str, "NDArray[Any]"]


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


def single(number: float) -> NDArray[np.float32]:
    return np.array(number, np.float32)


def write(path: Path, nodes: list[Any], shape: tuple[int, ...], constants: Constants) -> Path:
    """A graph from `x` (batch, *shape) to `y`."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    )
    path.write_bytes(model.SerializeToString())
    return path


def check(path: Path, shape: tuple[int, ...], *, positive: bool = False) -> None:
    rows = normal(ROWS, *shape)
    if positive:
        rows = np.abs(rows) + np.float32(0.1)
    expected = onnxruntime.InferenceSession(path).run(None, {"x": rows})[0]
    found = load(path).run({"x": rows})["y"]
    np.testing.assert_allclose(found.astype(np.float64), expected, atol=2e-5)


PICTURE, VECTOR, STEPS = (2, 8, 8), (6,), (5, 4)

UNARY = ["Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg", "Relu", "Sigmoid", "Sign", "Sin", "Softplus"]
UNARY += ["Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Selu", "Softmax", "LogSoftmax", "Flatten", "Mish"]


@pytest.mark.parametrize("kind", UNARY)
def test_operator_of_one_input_agrees(tmp_path: Path, kind: str) -> None:
    check(write(tmp_path / "m", [onnx.helper.make_node(kind, ["x"], ["y"])], VECTOR, {}), VECTOR)


@pytest.mark.parametrize("kind", ["Log", "Sqrt", "Reciprocal"])
def test_operator_of_one_positive_input_agrees(tmp_path: Path, kind: str) -> None:
    check(write(tmp_path / "m", [onnx.helper.make_node(kind, ["x"], ["y"])], VECTOR, {}), VECTOR, positive=True)


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"])
@pytest.mark.parametrize("constant", [normal(6) + 3.0, single(2.5), normal(1) + 3.0])
def test_arithmetic_with_a_constant_agrees(tmp_path: Path, kind: str, constant: NDArray[np.float32]) -> None:
    for inputs in (["x", "c"], ["c", "x"]):
        path = write(tmp_path / "m", [onnx.helper.make_node(kind, inputs, ["y"])], VECTOR, {"c": constant})
        check(path, VECTOR, positive=True)


LAYERS: list[tuple[str, tuple[int, ...], dict[str, Any], Constants]] = [
    ("Conv", PICTURE, {"pads": [1, 1, 1, 1], "strides": [2, 1]}, {"w": normal(4, 2, 3, 3), "b": normal(4)}),
    ("Conv", PICTURE, {"pads": [0, 1, 2, 1]}, {"w": normal(4, 2, 3, 3)}),
    ("Conv", PICTURE, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"w": normal(4, 2, 3, 3)}),
    ("Conv", PICTURE, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, {"w": normal(4, 2, 3, 3)}),
    ("Conv", PICTURE, {"auto_pad": "VALID", "dilations": [2, 2]}, {"w": normal(4, 2, 3, 3)}),
    ("Conv", PICTURE, {"group": 2}, {"w": normal(4, 1, 3, 3)}),
    ("Conv", STEPS, {"pads": [1, 1]}, {"w": normal(3, 5, 3)}),
    ("ConvTranspose", PICTURE, {"strides": [2, 2], "pads": [1, 1, 1, 1]}, {"w": normal(2, 3, 3, 3), "b": normal(3)}),
    ("MaxPool", PICTURE, {"kernel_shape": [2, 2], "strides": [2, 2]}, {}),
    ("MaxPool", PICTURE, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, {}),
    ("MaxPool", PICTURE, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, {}),
    ("AveragePool", PICTURE, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {}),
    ("AveragePool", PICTURE, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, {}),
    ("AveragePool", PICTURE, {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}, {}),
    ("GlobalAveragePool", PICTURE, {}, {}),
    ("GlobalMaxPool", PICTURE, {}, {}),
    ("Gemm", VECTOR, {"transB": 1}, {"w": normal(4, 6), "b": normal(4)}),
    ("Gemm", VECTOR, {}, {"w": normal(6, 4), "b": normal(4)}),
    ("Gemm", VECTOR, {"alpha": 0.5, "beta": 2.0}, {"w": normal(6, 4), "b": normal(1, 4)}),
    ("MatMul", STEPS, {}, {"w": normal(4, 3)}),
    ("MatMul", STEPS, {}, {"w": normal(3, 4, 2)[:1]}),
    ("LayerNormalization", STEPS, {"axis": -1}, {"w": normal(4), "b": normal(4)}),
    ("LayerNormalization", STEPS, {"axis": 1}, {"w": normal(5, 4)}),
    ("InstanceNormalization", PICTURE, {}, {"w": normal(2), "b": normal(2)}),
    ("PRelu", PICTURE, {}, {"w": normal(2, 1, 1)}),
    ("ReduceMean", PICTURE, {"keepdims": 0}, {"axes": whole(2, 3)}),
    ("ReduceSum", PICTURE, {}, {"axes": whole(-1)}),
    ("ReduceMax", PICTURE, {"keepdims": 0}, {"axes": whole(1)}),
    ("ReduceL2", PICTURE, {}, {"axes": whole(1)}),
    ("Clip", VECTOR, {}, {"low": single(0.0), "high": single(6.0)}),
    ("Clip", VECTOR, {}, {"low": single(-0.5), "high": single(0.5)}),
    ("Pow", VECTOR, {}, {"p": single(2.0)}),
    ("Reshape", PICTURE, {}, {"shape": whole(0, 16, -1)}),
    ("Transpose", PICTURE, {"perm": [0, 2, 3, 1]}, {}),
    ("Squeeze", (1, 4), {}, {"axes": whole(1)}),
    ("Unsqueeze", VECTOR, {}, {"axes": whole(1, 3)}),
    ("Concat", STEPS, {"axis": 2}, {}),
    ("Slice", STEPS, {}, {"s": whole(1), "e": whole(2**62), "a": whole(1), "d": whole(2)}),
    ("Slice", STEPS, {}, {"s": whole(-3), "e": whole(-1), "a": whole(2)}),
    ("Gather", STEPS, {"axis": 1}, {"i": np.array(-1, np.int64)}),
    ("Gather", STEPS, {"axis": 2}, {"i": whole(3, -2, 0)}),
    ("Expand", (1, 4), {}, {"shape": whole(1, 5, 1)}),
    ("Tile", STEPS, {}, {"r": whole(1, 2, 3)}),
    ("Pad", PICTURE, {}, {"p": whole(0, 0, 1, 2, 0, 0, 3, 0), "v": single(1.5)}),
    ("Pad", PICTURE, {"mode": "reflect"}, {"p": whole(0, 0, 1, 1, 0, 0, 1, 1)}),
    ("Pad", PICTURE, {"mode": "edge"}, {"p": whole(0, 0, 1, 1, 0, 0, 1, 1)}),
]


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "constants"), LAYERS, ids=[f"{i}-{one[0]}" for i, one in enumerate(LAYERS)]
)
def test_layer_agrees(
    tmp_path: Path, kind: str, shape: tuple[int, ...], attributes: dict[str, Any], constants: Constants
) -> None:
    node = onnx.helper.make_node(kind, ["x", *constants], ["y"], **attributes)
    check(write(tmp_path / "m", [node], shape, constants), shape)


def test_batch_norm_that_shares_its_tensors_agrees(tmp_path: Path) -> None:
    node = onnx.helper.make_node("BatchNormalization", ["x", "one", "zero", "zero", "one"], ["y"])
    path = write(tmp_path / "m", [node], PICTURE, {"one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)})
    check(path, PICTURE)


def test_product_and_sum_become_one_layer_with_a_bias(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["p"]),
        onnx.helper.make_node("Add", ["b", "p"], ["s"]),
        onnx.helper.make_node("Relu", ["s"], ["y"]),
    ]
    path = write(tmp_path / "m", nodes, VECTOR, {"w": normal(6, 4), "b": normal(4)})
    check(path, VECTOR)
    layers = [type(module).__name__ for module in load(path).module.modules()]
    assert "Linear" in layers


def test_split_agrees(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Split", ["x", "lengths"], ["a", "b"], axis=1),
        onnx.helper.make_node("ReduceSum", ["a", "axes"], ["c"]),
        onnx.helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    path = write(tmp_path / "m", nodes, STEPS, {"lengths": whole(2, 3), "axes": whole(1)})
    check(path, STEPS)


def test_shape_arithmetic_with_the_batch_agrees(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Shape", ["x"], ["shape"]),
        onnx.helper.make_node("Gather", ["shape", "first"], ["batch"], axis=0),
        onnx.helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        onnx.helper.make_node("Reshape", ["x", "wanted"], ["y"]),
    ]
    path = write(tmp_path / "m", nodes, STEPS, {"first": whole(0), "rest": whole(-1)})
    check(path, STEPS)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_agrees(tmp_path: Path, mode: str) -> None:
    form = {"nearest": "asymmetric", "linear": "half_pixel"}[mode]
    node = onnx.helper.make_node(
        "Resize",
        ["x", "", "scales"],
        ["y"],
        mode=mode,
        coordinate_transformation_mode=form,
        nearest_mode="floor",
    )
    path = write(tmp_path / "m", [node], PICTURE, {"scales": np.array([1, 1, 2, 2], np.float32)})
    check(path, PICTURE)


@pytest.mark.parametrize("with_bias", [True, False])
def test_lstm_agrees(tmp_path: Path, with_bias: bool) -> None:  # noqa: FBT001
    constants: Constants = {"w": normal(1, 12, 4), "r": normal(1, 12, 3)}
    constants |= {"b": normal(1, 24)} if with_bias else {}
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        onnx.helper.make_node("LSTM", ["t", *constants], ["", "h"], hidden_size=3),
        onnx.helper.make_node("Squeeze", ["h", "axes"], ["y"]),
    ]
    check(write(tmp_path / "m", nodes, STEPS, {**constants, "axes": whole(0)}), STEPS)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "says"),
    [
        ("LSTM", ["x", "w", "r"], {"hidden_size": 3, "direction": "reverse"}, "only a forward LSTM"),
        ("Reshape", ["x", "x"], {}, "the shape depends on the model's input"),
        ("Conv", ["x"], {}, "can't be read"),
        ("Pad", ["x", "p"], {"mode": "wrap"}, "it pads by wrap"),
    ],
)
def test_layer_that_can_not_be_read_is_named(
    tmp_path: Path, kind: str, inputs: list[str], attributes: dict[str, Any], says: str
) -> None:
    node = onnx.helper.make_node(kind, inputs, ["y"], name="the culprit", **attributes)
    constants = {"w": normal(1, 12, 4), "r": normal(1, 12, 3), "p": whole(0, 0, 0, 0, 1, 1)}
    helper = onnx.helper
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", *STEPS])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path / "m"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )
    with pytest.raises(ConversionError) as refused:
        load(path)
    assert "'the culprit'" in str(refused.value)
    assert says in str(refused.value)


@pytest.mark.parametrize(("kind", "lengths"), [("Expand", (1, 10**12)), ("Tile", (1, 10**12)), ("Tile", (10**12, 1))])
def test_few_bytes_that_become_more_than_memory_holds_are_refused_at_once(
    tmp_path: Path, kind: str, lengths: tuple[int, ...]
) -> None:
    make = onnx.helper.make_node
    nodes = [make(kind, ["x", "n"], ["e"], name="the bomb"), make("ReduceMean", ["e", "a"], ["y"], keepdims=1)]
    path = write(tmp_path / "m", nodes, (1,), {"n": whole(*lengths), "a": whole(1)})
    with pytest.raises(ConversionError, match=r"'the bomb' .* it makes \d+ elements of few"):
        load(path)
