from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ConversionError, ExtraMissingError, NoEffectError
from compressors.files.onnx import read_facts
from compressors.inputs import program
from compressors.inputs.program import FloatModel
from compressors.measuring.scoring import score
from compressors.step import Context, Model, content_of
from compressors.steps.export_onnx import STEP as EXPORT
from compressors.steps.quantize_onnx import DYNAMIC, STATIC, scaling_nodes
from compressors.steps.unconvertible import unconvertible
from edge_agent.protocol.signature import ModelSignature, TensorSpec
from edge_agent.runtimes.onnx_external import check as require_self_contained
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from pathlib import Path

MACS_OF_PRICE = 8 * 32 + 32 * 32 + 32
MACS_OF_SHAPES = 8 * 9 * 144 + 8 * 9 * 144 + 8 * 16 * 144 + 144 * 3


class Unconvertible(torch.nn.Module):
    """Singular values: ONNX has no operator for them."""

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        return torch.linalg.svdvals(x.reshape(-1, 4, 2))


@pytest.fixture(scope="session")
def price_model(uploads: Path) -> tuple[Model, Context]:
    network = program.load(uploads / "price.pt2")
    return Model(network), context_of(
        evaluation_rows.load(uploads / "price.npz", network.signature, Task.REGRESSION), Task.REGRESSION
    )


@pytest.fixture(scope="session")
def shapes_model(uploads: Path) -> tuple[Model, Context]:
    network = program.load(uploads / "shapes.pt2")
    evaluation = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    return Model(network), context_of(evaluation, Task.CLASSIFICATION)


@pytest.mark.parametrize("opset", [18, 20])
def test_export_states_its_opset_holds_all_weights_and_counts_the_network_s_macs(
    shapes_model: tuple[Model, Context], opset: int
) -> None:
    model, context = shapes_model
    outcome = apply(EXPORT, model, context, opset=opset)
    content = content_of(outcome.model)
    (imported,) = onnx.load_model_from_string(content).opset_import
    assert imported.version == opset
    assert outcome.summary.startswith(f"opset {opset}, ")
    require_self_contained(content)
    assert read_facts(content).macs == MACS_OF_SHAPES
    assert read_facts(content).quantized_operators == 0


def test_export_of_an_operator_that_onnx_lacks_names_it() -> None:
    signature = ModelSignature(
        inputs=(TensorSpec(name="x", shape=(-1, 8)),), outputs=(TensorSpec(name="y", shape=(-1, 2)),)
    )
    model = Model(FloatModel(Unconvertible(), signature, 0))
    with pytest.raises(ConversionError, match=r"to ONNX, because of the operator aten\._linalg_svd"):
        EXPORT.apply(model, None, EXPORT.parameters())  # type: ignore[arg-type]


def test_export_that_answers_otherwise_than_the_network_is_refused(price_model: tuple[Model, Context]) -> None:
    model, context = price_model

    class Capricious(torch.nn.Module):
        """Another function when it is exported than when it is run."""

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, :1] * (2.0 if torch.compiler.is_exporting() else 1.0)

    odd = Model(FloatModel(Capricious(), model.network.signature, 0))
    with pytest.raises(ConversionError, match="gives another output_0 than the network: it is off by 1 of"):
        apply(EXPORT, odd, context)


def test_export_without_the_extra_says_what_to_install(
    price_model: tuple[Model, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'shoal\[onnx\]'"):
        apply(EXPORT, *price_model)


@pytest.mark.parametrize("step", [DYNAMIC, STATIC], ids=lambda step: step.name)
def test_int8_keeps_r2_of_a_table_with_features_on_different_scales(
    price_model: tuple[Model, Context],
    step: Any,  # noqa: ANN401
) -> None:
    exported = apply(EXPORT, *price_model).model
    context = price_model[1]
    outcome = apply(step, exported, context)
    before, after = (score(model, context.selection, context.metric) for model in (exported, outcome.model))
    assert before > 0.9
    assert abs(before - after) < 0.005
    facts = read_facts(content_of(outcome.model))
    assert (facts.integer_layers, facts.macs) == (3, MACS_OF_PRICE)


def test_static_int8_leaves_what_scales_the_features_in_float(price_model: tuple[Model, Context]) -> None:
    exported = apply(EXPORT, *price_model).model
    kinds = {node.name: node.op_type for node in onnx.load_model_from_string(content_of(exported)).graph.node}
    assert [kinds[name] for name in scaling_nodes(content_of(exported))] == ["Sub", "Div"]


def test_static_int8_of_a_convnet_with_a_dead_channel_computes_in_integers(
    shapes_model: tuple[Model, Context],
) -> None:
    model, context = shapes_model
    exported = apply(EXPORT, model, context).model
    outcome = apply(STATIC, exported, context)
    kinds = list(outcome.layers.values())
    assert sorted(kinds) == ["Conv int8 x int8"] * 3 + ["Gemm int8 x int8"]
    before, after = (score(one, context.selection, context.metric) for one in (exported, outcome.model))
    assert abs(before - after) <= 0.02


@pytest.mark.parametrize(
    ("parameters", "kinds", "scales"),
    [
        ({}, "int8 x int8", "one for each channel"),
        ({"activations": "uint8"}, "uint8 x int8", "one for each channel"),
        ({"activations": "uint8", "granularity": "tensor"}, "uint8 x int8", "one"),
    ],
)
def test_static_int8_file_holds_the_activations_and_scales_that_were_asked_for(
    shapes_model: tuple[Model, Context], parameters: dict[str, str], kinds: str, scales: str
) -> None:
    model, context = shapes_model
    exported = apply(EXPORT, model, context).model
    outcome = apply(STATIC, exported, context, **parameters)
    graph = onnx.load_model_from_string(content_of(outcome.model)).graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    (first,) = [node for node in graph.node if node.op_type == "Conv"][:1]
    made_by = {name: node for node in graph.node for name in node.output}
    activation, weight = (made_by[name] for name in first.input[:2])
    assert f"{constants[activation.input[2]].dtype} x {constants[weight.input[2]].dtype}" == kinds
    assert (constants[weight.input[1]].size > 1) == (scales != "one")
    before, after = (score(one, context.selection, context.metric) for one in (exported, outcome.model))
    assert abs(before - after) <= 0.02


def test_static_int8_of_a_network_without_weights_is_no_effect(price_model: tuple[Model, Context]) -> None:
    model, context = price_model

    class Plain(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, :1].abs()

    exported = apply(EXPORT, Model(FloatModel(Plain(), model.network.signature, 0)), context).model
    with pytest.raises(NoEffectError, match="no operator of this network was quantized"):
        apply(STATIC, exported, context)


def test_sentence_without_an_operator_is_the_converter_s_own() -> None:
    said = str(unconvertible(ValueError("all is lost"), "ONNX", torch.nn.Identity()))
    assert said.startswith("the network can't be converted to ONNX, because of a part of it (all is lost): ")
