from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ConversionError, ExtraMissingError, NoEffectError
from compressors.files.executorch import read_delegated, read_facts
from compressors.inputs import program
from compressors.inputs.program import FloatModel
from compressors.measuring.scoring import score
from compressors.step import Model, content_of
from compressors.steps.export_executorch import STEP as EXPORT
from edge_agent.protocol.signature import ModelSignature, TensorSpec
from tests.compressors.steps.applying import apply, context_of, first_output

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.step import Context

MACS_OF = {"price": 8 * 32 + 32 * 32 + 32, "shapes": 8 * 9 * 144 + 8 * 9 * 144 + 8 * 16 * 144 + 144 * 3}
TASK_OF = {"price": Task.REGRESSION, "shapes": Task.CLASSIFICATION}


def loaded(uploads: Path, name: str) -> tuple[Model, Context]:
    network = program.load(uploads / f"{name}.pt2")
    return Model(network), context_of(
        evaluation_rows.load(uploads / f"{name}.npz", network.signature, TASK_OF[name]), TASK_OF[name]
    )


@pytest.mark.parametrize("name", ["price", "shapes"])
def test_float_program_is_one_xnnpack_part_with_the_network_s_macs(uploads: Path, name: str) -> None:
    outcome = apply(EXPORT, *loaded(uploads, name))
    content = content_of(outcome.model)
    facts = read_facts(content)
    assert (facts.macs, facts.quantized_operators) == (MACS_OF[name], 0)
    assert read_delegated(content) == (1, ())
    assert "off the network" in outcome.summary


@pytest.mark.parametrize("name", ["price", "shapes"])
def test_int8_program_computes_in_integers_and_keeps_the_metric(uploads: Path, name: str) -> None:
    model, context = loaded(uploads, name)
    outcome = apply(EXPORT, model, context, quantize="static-int8")
    kinds = list(outcome.layers.values())
    assert len(kinds) == (3 if name == "price" else 4)
    assert all(kind.endswith("int8 x int8") for kind in kinds)
    before, after = (score(one, context.selection, context.metric) for one in (model, outcome.model))
    assert abs(before - after) <= (0.005 if name == "price" else 0.02)


def test_int8_of_what_a_relu6_cuts_off_spends_no_bits_on_it(uploads: Path) -> None:
    model, context = loaded(uploads, "shapes")
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(1, 3, 12)
    with torch.no_grad():
        convolution.weight *= 100.0  # far beyond six
    loud = torch.nn.Sequential(convolution, torch.nn.ReLU6(), torch.nn.Flatten())
    network = Model(FloatModel(loud, model.network.signature, 0))
    outcome = apply(EXPORT, network, context, quantize="static-int8")
    wrong = abs(first_output(outcome.model, context.selection) - first_output(network, context.selection))
    assert np.median(wrong) <= 6 / 255


def test_table_of_a_recommender_stays_outside_of_xnnpack_and_the_summary_says_so(uploads: Path) -> None:
    network = program.load(uploads / "films.pt2")
    rows = evaluation_rows.load(uploads / "films.npz", network.signature, Task.RANKING)
    outcome = apply(EXPORT, Model(network), context_of(rows, Task.RANKING))
    assert "2 operators stay outside of it (aten::embedding)" in outcome.summary


def test_export_of_an_operator_that_executorch_lacks_names_it() -> None:
    class Bessel(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
            return torch.special.bessel_j0(x)

    spec = (TensorSpec(name="x", shape=(-1, 8)),)
    model = Model(FloatModel(Bessel(), ModelSignature(inputs=spec, outputs=spec), 0))
    with pytest.raises(ConversionError, match=r"to ExecuTorch, because of the operator aten\.special_bessel_j0"):
        EXPORT.apply(model, None, EXPORT.parameters())  # type: ignore[arg-type]


def test_int8_program_of_a_network_without_weights_is_no_effect(uploads: Path) -> None:
    model, context = loaded(uploads, "price")

    class Plain(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, :1].abs()

    plain = Model(FloatModel(Plain(), model.network.signature, 0))
    with pytest.raises(NoEffectError, match="no operator of this network was quantized"):
        apply(EXPORT, plain, context, quantize="static-int8")


def test_export_without_the_extra_says_what_to_install(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(ExtraMissingError, match=r"pip install 'shoal\[executorch\]'"):
        apply(EXPORT, *loaded(uploads, "price"))
