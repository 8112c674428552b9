from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.protocol.manifest import TensorBinding
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from edge_agent.runtimes.base import FileTensor
from edge_agent.runtimes.convert import (
    BindingError,
    BoundModel,
    InputError,
    _conversion_in,
    _conversion_out,
    bind,
    from_file,
    require_finite,
    to_file,
)
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge_agent.conftest import Workshop

INT8 = TensorBinding(name="x", index=0, datatype=Datatype.INT8, shape=(1, 4), scale=0.5, zero_point=-3)


def open_bound(path: Path, signature: ModelSignature) -> BoundModel:
    model = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.XNNPACK)
    return BoundModel(model, signature, bind(signature.inputs, model.inputs), bind(signature.outputs, model.outputs))


def test_to_file_quantized_rounds_to_even_and_adds_the_zero_point() -> None:
    values = np.array([[0.0, 1.0, 0.25, -0.75]], dtype=np.float32)
    assert to_file(values, INT8).tolist() == [[-3, -1, -3, -5]]


def test_to_file_out_of_range_saturates_and_nan_is_zero() -> None:
    values = np.array([[1e30, -1e30, np.nan, np.inf]], dtype=np.float32)
    assert to_file(values, INT8).tolist() == [[127, -128, -3, 127]]


@pytest.mark.parametrize("datatype", [Datatype.INT32, Datatype.INT64, Datatype.UINT8, Datatype.INT16])
def test_to_file_plain_integers_saturate_without_a_warning(datatype: Datatype) -> None:
    binding = TensorBinding(name="x", index=0, datatype=datatype, shape=(1, 3))
    values = np.array([[3.6, -1e30, 1e30]], dtype=np.float32)
    low, middle, high = to_file(values, binding)[0]
    bounds = np.iinfo(datatype.numpy_name)
    assert (int(low), int(middle)) == (4, bounds.min)
    assert int(high) > bounds.max * 0.999


def test_from_file_quantized_gives_real_values() -> None:
    spec = TensorSpec(name="x", shape=(-1, 4))
    values = np.array([[-3, -1, 127, -128]], dtype=np.int8)
    assert from_file(values, INT8, spec).tolist() == [[0.0, 1.0, 65.0, -62.5]]


@pytest.mark.parametrize("datatype", [Datatype.INT8, Datatype.UINT8, Datatype.INT16, Datatype.UINT16])
def test_conversions_prepared_before_agree_with_those_made_at_once(datatype: Datatype) -> None:
    bounds = np.iinfo(datatype.numpy_name)
    binding = TensorBinding(name="x", index=0, datatype=datatype, shape=(1, 4), scale=0.013, zero_point=bounds.max // 3)
    spec = TensorSpec(name="x", shape=(-1, 4))
    rng = np.random.default_rng(3)
    values = (rng.normal(size=(500, 4)) * 400).astype(np.float32)
    values[:6, 0] = [np.nan, np.inf, -np.inf, 1e38, -1e38, 0.0]
    prepared = _conversion_in(spec, binding)(values.T.copy().T)
    assert prepared.flags.c_contiguous
    np.testing.assert_array_equal(prepared, to_file(values, binding))
    back = _conversion_out(spec, binding)
    np.testing.assert_array_equal(back(prepared), from_file(prepared, binding, spec))


def test_to_file_and_back_is_within_half_a_step() -> None:
    values = np.linspace(-60, 60, 400, dtype=np.float32).reshape(100, 4)
    again = from_file(to_file(values, INT8), INT8, TensorSpec(name="x", shape=(-1, 4)))
    assert np.abs(again - values).max() <= 0.25


@pytest.mark.parametrize("kind", ["float", "int8", "uint8"])
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_run_of_any_file_answers_the_same_float_request(workshop: Workshop, kind: str, rows: int) -> None:
    path = {"float": workshop.float_file, "int8": workshop.int8_file, "uint8": workshop.uint8_file}[kind]()
    bound = open_bound(path, workshop.network.signature)
    samples = workshop.network.samples(rows)
    scores = bound.run({"features": samples})["scores"]
    assert scores.dtype == np.float32
    assert scores.shape == (rows, 4)
    np.testing.assert_allclose(scores, workshop.network.expected(samples), atol=1e-5 if kind == "float" else 0.08)


def test_run_on_a_file_of_batch_four_fills_up_the_last_piece(workshop: Workshop) -> None:
    bound = open_bound(workshop.float_file(batch=4), workshop.network.signature)
    samples = workshop.network.samples(6)
    assert bound.invocations(6) == 2
    scores = bound.run({"features": samples})["scores"]
    np.testing.assert_allclose(scores, workshop.network.expected(samples), atol=1e-5)


def test_run_with_a_constant_batch_of_apps_is_cut_for_the_file(workshop: Workshop) -> None:
    signature = ModelSignature(
        inputs=(TensorSpec(name="features", shape=(4, 8)),), outputs=(TensorSpec(name="scores", shape=(4, 4)),)
    )
    bound = open_bound(workshop.float_file(), signature)
    samples = workshop.network.samples(4)
    np.testing.assert_allclose(
        bound.run({"features": samples})["scores"], workshop.network.expected(samples), atol=1e-5
    )
    with pytest.raises(InputError, match=r"has the shape \[4, 8\]"):
        bound.run({"features": samples[:1]})


def test_run_of_two_inputs_and_outputs_keeps_them_apart(workshop: Workshop, pair_signature: ModelSignature) -> None:
    bound = open_bound(workshop.pair_file(), pair_signature)
    left, right = np.ones((3, 3), dtype=np.float32) * 5, np.ones((3, 3), dtype=np.float32) * 2
    answer = bound.run({"right": right, "left": left})
    assert answer["sum"].tolist() == [[7.0] * 3] * 3
    assert answer["difference"].tolist() == [[3.0] * 3] * 3


def test_bind_in_another_order_follows_it(workshop: Workshop, pair_signature: ModelSignature) -> None:
    tensors = open_runtime(RuntimeName.LITERT).load(workshop.pair_file(), threads=1, delegate=Delegate.NONE).inputs
    bindings = bind(pair_signature.inputs, tensors, order=(1, 0))
    assert [(b.name, b.index) for b in bindings] == [("left", 1), ("right", 0)]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({}, "the inputs are"),
        ({"features": np.zeros((1, 8), np.float32), "more": np.zeros(1, np.float32)}, "the inputs are"),
        ({"features": np.zeros((1, 9), np.float32)}, "has the shape"),
        ({"features": np.zeros((0, 8), np.float32)}, "has the shape"),
        ({"features": np.zeros(8, np.float32)}, "has the shape"),
        ({"features": np.zeros((1, 8), np.float64)}, "is FP32, got float64"),
    ],
    ids=["missing", "unknown", "width", "no-samples", "rank", "type"],
)
def test_run_with_inputs_that_do_not_fit_says_how(workshop: Workshop, arrays: dict[str, Any], sentence: str) -> None:
    bound = open_bound(workshop.float_file(), workshop.network.signature)
    with pytest.raises(InputError, match=sentence):
        bound.run(arrays)


def test_run_with_unequal_batches_is_refused(workshop: Workshop, pair_signature: ModelSignature) -> None:
    bound = open_bound(workshop.pair_file(), pair_signature)
    with pytest.raises(InputError, match="another one has 2"):
        bound.run({"left": np.zeros((2, 3), np.float32), "right": np.zeros((1, 3), np.float32)})


def test_bound_model_whose_manifest_tells_another_type_is_refused(workshop: Workshop) -> None:
    signature = workshop.network.signature
    model = open_runtime(RuntimeName.LITERT).load(workshop.float_file(), threads=1, delegate=Delegate.XNNPACK)
    quantized = open_runtime(RuntimeName.LITERT).load(workshop.int8_file(), threads=1, delegate=Delegate.XNNPACK)
    with pytest.raises(BindingError, match="INT8"):
        BoundModel(
            model, signature, bind(signature.inputs, quantized.inputs), bind(signature.outputs, quantized.outputs)
        )


def test_bind_of_other_shapes_names_the_tensor() -> None:
    with pytest.raises(BindingError, match="scores"):
        bind((TensorSpec(name="scores", shape=(-1, 3)),), (FileTensor(name="y", datatype=Datatype.FP32, shape=(1, 4)),))


def test_require_finite_names_input_and_sample() -> None:
    bad = np.zeros((3, 8), dtype=np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="input features holds NaN or infinity, first in sample 2"):
        require_finite({"features": bad})
    require_finite({"features": bad[:2], "ids": np.zeros((2, 1), dtype=np.int64)})
