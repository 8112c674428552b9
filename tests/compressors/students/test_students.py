"""Students are the published networks, scaled, and fit behind the signature of the model that they replace."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressors.errors import RecipeError
from compressors.students import Architecture, build
from compressors.students.widths import divisible, strides_within
from edge_agent.protocol.signature import FREE, Datatype, ModelSignature, TensorSpec

SCALE = 2 * 3  # weights that every student has before its stem
PUBLISHED = {  # parameters as torchvision 0.28 and the TPU models give them for 1,000 classes; MACs in millions
    Architecture.MOBILENET_V2: (3_504_872, 301),
    Architecture.MOBILENET_V3_SMALL: (2_542_856, 57),
    Architecture.MOBILENET_V3_LARGE: (5_483_032, 217),
    Architecture.SHUFFLENET_V2: (2_278_604, 145),
    Architecture.EFFICIENTNET_LITE: (4_652_008, 385),
}


def signature(*shape: int, outputs: tuple[int, ...] = (10,)) -> ModelSignature:
    return ModelSignature(
        inputs=(TensorSpec(name="picture", datatype=Datatype.FP32, shape=(FREE, *shape)),),
        outputs=(TensorSpec(name="output_0", datatype=Datatype.FP32, shape=(FREE, *outputs)),),
    )


def macs(network: torch.nn.Module, *shape: int) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *shape))
    return float(counter.get_total_flops()) / 2e6


@pytest.mark.parametrize("architecture", Architecture)
def test_student_at_width_one_is_the_published_network(architecture: Architecture) -> None:
    student = build(architecture, signature(3, 224, 224, outputs=(1000,)), width=1, resolution=1, seed=0)
    parameters, multiplications = PUBLISHED[architecture]
    assert sum(weight.numel() for weight in student.parameters()) == parameters + SCALE
    assert round(macs(student, 3, 224, 224)) == multiplications


@pytest.mark.parametrize("architecture", Architecture)
@pytest.mark.parametrize("shape", [(1, 28, 28), (64, 48, 3)], ids=["small", "channels-last"])
def test_student_takes_and_gives_what_the_model_does(architecture: Architecture, shape: tuple[int, ...]) -> None:
    student = build(architecture, signature(*shape), width=0.5, resolution=0.75, seed=0).eval()
    assert student(torch.randn(2, *shape)).shape == (2, 10)


def test_width_and_resolution_save_multiplications() -> None:
    whole, narrow, coarse = (
        macs(build(Architecture.MOBILENET_V2, signature(3, 96, 96), width=w, resolution=r, seed=0), 3, 96, 96)
        for w, r in ((1, 1), (0.5, 1), (1, 0.5))
    )
    assert narrow < 0.4 * whole
    assert coarse < 0.4 * whole


def test_student_of_one_seed_is_the_same_again() -> None:
    first, again, other = (
        build(Architecture.SHUFFLENET_V2, signature(1, 28, 28), width=0.5, resolution=1, seed=seed)
        for seed in (1, 1, 2)
    )
    weights = [next(one.get_submodule("classifier").parameters()) for one in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (signature(8), "takes one picture"),
        (signature(7, 9, 9), "1, 3 or 4 channels"),
        (signature(3, 9, 9, outputs=(4, 4)), "one row of values"),
    ],
)
def test_model_of_another_kind_has_no_such_student(model: ModelSignature, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build(Architecture.MOBILENET_V2, model, width=1, resolution=1, seed=0)


def test_channels_are_divisible_and_never_much_fewer() -> None:
    assert [divisible(n) for n in (1, 8, 11, 12, 45)] == [8, 8, 16, 16, 48]


def test_small_pictures_lose_their_first_strides() -> None:
    assert strides_within(224, [2, 2, 2, 2, 2]) == [2, 2, 2, 2, 2]
    assert strides_within(28, [2, 1, 2, 2, 2, 2]) == [1, 1, 1, 2, 2, 2]
    assert strides_within(2, [2, 2]) == [1, 1]
