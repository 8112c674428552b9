from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ConversionError
from compressors.inputs import program
from compressors.inputs.program import FloatModel
from compressors.npu.edge_tpu import violations
from compressors.step import Context, Model, content_of
from compressors.steps.check_edge_tpu import STEP as CHECK
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.quantize_dynamic import INT8 as DYNAMIC
from compressors.steps.quantize_static import INT8 as STATIC
from tests.compressors.steps.applying import apply, context_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def shapes_float(uploads: Path) -> tuple[Model, Context]:
    network = program.load(uploads / "shapes.pt2")
    rows = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    context = context_of(rows, Task.CLASSIFICATION)
    return apply(EXPORT, Model(network), context).model, context


def test_integer_convnet_conforms(shapes_float: tuple[Model, Context]) -> None:
    outcome = apply(CHECK, apply(STATIC, *shapes_float).model, shapes_float[1])
    assert outcome.summary.startswith("all ")
    assert outcome.model.file is not None


def test_float_convnet_is_refused_with_a_sentence_for_each_operator(shapes_float: tuple[Model, Context]) -> None:
    said = violations(content_of(shapes_float[0]))
    assert said[0].startswith("the input ")
    assert sum("works on float32: only int8 and uint8 run there" in sentence for sentence in said) >= 5
    with pytest.raises(ConversionError, match=r"does not conform to the Edge TPU: the input .* and 1 more"):
        apply(CHECK, *shapes_float)


def test_weights_alone_in_integers_do_not_conform(shapes_float: tuple[Model, Context]) -> None:
    assert violations(content_of(apply(DYNAMIC, *shapes_float).model))


def test_float_ends_of_an_integer_file_do_not_conform(shapes_float: tuple[Model, Context]) -> None:
    said = violations(content_of(apply(STATIC, *shapes_float, io="float32").model))
    assert any("is float32: let the file take int8" in sentence for sentence in said)
    assert any(sentence.startswith("DEQUANTIZE") for sentence in said)


def test_operator_that_the_edge_tpu_lacks_is_named(shapes_float: tuple[Model, Context]) -> None:
    class Exponent(torch.nn.Module):
        """e to the power of what a convnet says."""

        def __init__(self, inner: Any) -> None:  # noqa: ANN401
            super().__init__()
            self.inner = inner

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return torch.exp(self.inner(picture))

    model, context = shapes_float
    odd = FloatModel(Exponent(model.network.module), model.network.signature, 0)
    quantized = apply(STATIC, apply(EXPORT, Model(odd), context).model, context)
    said = violations(content_of(quantized.model))
    assert any(sentence.startswith("EXP ") and "is not an operator of the Edge TPU" in sentence for sentence in said)
