from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import NoEffectError
from compressors.inputs import program
from compressors.measuring.fidelity import snr_db
from compressors.network.layers import weight_of, weighted_layers
from compressors.step import Context, Model
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.quantize_static import INT8 as STATIC
from compressors.steps.simulate_quantization import STEP as SIMULATE
from tests.compressors.steps.applying import apply, context_of, first_output

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "shapes.pt2")


@pytest.fixture(scope="module")
def context(uploads: Path, network: program.FloatModel) -> Context:
    evaluation = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    return context_of(evaluation, Task.CLASSIFICATION, teacher=network)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("per_channel", [True, False], ids=["channel", "tensor"])
def test_weights_have_no_more_values_than_their_width(
    network: program.FloatModel, context: Context, bits: int, *, per_channel: bool
) -> None:
    outcome = apply(SIMULATE, Model(network), context, weight_bits=bits, per_channel=per_channel)
    assert set(outcome.layers) == {"layers.0", "layers.2", "layers.4", "layers.8"}
    for _, layer in weighted_layers(outcome.model.network.module):
        for part in weight_of(layer) if per_channel else [weight_of(layer)]:
            assert len(part.unique()) <= 2**bits - 1


def test_more_bits_are_nearer_to_float(network: program.FloatModel, context: Context) -> None:
    expected = first_output(Model(network), context.selection)
    found = [
        snr_db(
            expected,
            first_output(
                apply(SIMULATE, Model(network), context, weight_bits=bits, activation_bits=bits).model,
                context.selection,
            ),
        )
        for bits in (3, 5, 7, 10)
    ]
    assert found == sorted(found)
    assert found[-1] > found[0] + 15.0


def test_simulation_answers_as_the_integer_file_does(network: program.FloatModel, context: Context) -> None:
    simulated = apply(SIMULATE, Model(network), context, weight_bits=8, activation_bits=8)
    exported = apply(EXPORT, Model(network), context).model
    quantized = apply(STATIC, exported, context, calibration="min-max").model
    float_answers = first_output(Model(network), context.selection)
    given = first_output(simulated.model, context.selection)
    real = first_output(quantized, context.selection)
    assert snr_db(float_answers, given) == pytest.approx(snr_db(float_answers, real), abs=3.0)


def test_simulated_network_is_exported_with_its_rounding(network: program.FloatModel, context: Context) -> None:
    simulated = apply(SIMULATE, Model(network), context, weight_bits=4, activation_bits=4).model
    exported = apply(EXPORT, simulated, context).model
    given, expected = (first_output(model, context.selection) for model in (exported, simulated))
    assert np.allclose(given, expected, atol=1e-3)


def test_nothing_to_round_is_an_error(network: program.FloatModel, context: Context) -> None:
    with pytest.raises(NoEffectError, match="give weight_bits or activation_bits"):
        apply(SIMULATE, Model(network), context, weight_bits=None)
