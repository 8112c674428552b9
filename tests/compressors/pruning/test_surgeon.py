from __future__ import annotations

from itertools import combinations

import pytest
import torch

from compressors.pruning import one_by_one, surgeon
from compressors.pruning.surgeon import output_error, without_inputs, without_weights


def layer(outputs: int = 6, inputs: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the moment of inputs that go together in pairs."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    half = torch.randn(500, inputs // 2, generator=generator)
    seen = torch.cat([half, half + 0.1 * torch.randn(500, inputs // 2, generator=generator)], 1).double()
    return weight, (seen.T @ seen / 500)[None]


@pytest.fixture(params=["one by one", "by columns, solved", "by columns"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    way: str = request.param
    if way != "one by one":
        monkeypatch.setattr(surgeon, "SMALL", 0)
    if way == "by columns":
        monkeypatch.setattr(surgeon, "SOLVED", 0)
    return way


@pytest.mark.usefixtures("way")
def test_without_weights_has_as_many_zeros_and_loses_less_than_plain_zeros() -> None:
    weight, moment = layer()
    pruned = without_weights(weight, moment, 24)
    smallest = weight.masked_fill(weight.abs() <= weight.abs().flatten().kthvalue(24).values, 0.0)
    assert int((pruned == 0).sum()) == 24
    assert output_error(weight, pruned, moment) < 0.3 * output_error(weight, smallest, moment)


def test_one_weight_of_one_output_is_moved_as_the_closed_form_says(way: str) -> None:
    weight, moment = layer(outputs=1, inputs=4)
    pruned = without_weights(weight, moment, 1)
    gone = int((pruned == 0).flatten().nonzero()[0])
    damped = moment[0] + 0.01 * moment[0].diagonal().mean() * torch.eye(4)
    first = gone if way == "by columns" else 0  # taken in order, columns before the one that goes are final
    inverse = torch.linalg.inv(damped[first:, first:])
    expected = weight[0].double()
    expected[first:] -= expected[gone] / inverse[gone - first, gone - first] * inverse[gone - first]
    torch.testing.assert_close(pruned[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_one_by_one_takes_the_set_of_weights_that_costs_least() -> None:
    weight, moment = layer(outputs=1, inputs=6)
    pruned = without_weights(weight, moment, 2)
    errors = {}
    for pair in combinations(range(6), 2):
        kept = [column for column in range(6) if column not in pair]
        rest = torch.zeros(1, 6).double()
        solved = torch.linalg.solve(moment[0][kept][:, kept], (moment[0] @ weight[0].double())[kept])
        rest[0, kept] = solved
        errors[pair] = output_error(weight, rest, moment)
    assert output_error(weight, pruned, moment) == pytest.approx(min(errors.values()), rel=0.2)
    assert min(errors.values()) < 0.5 * sorted(errors.values())[3]  # most others cost far more


def test_better_ways_lose_less_where_inputs_have_much_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, generator=generator)
    causes = torch.randn(500, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    seen = torch.relu(causes + torch.randn(500, 64, generator=generator) + 1.0).double()
    moment = (seen.T @ seen / 500)[None]

    def lost() -> float:
        return output_error(weight, without_weights(weight, moment, 1638), moment)

    one_by_one_lost = lost()
    monkeypatch.setattr(surgeon, "SMALL", 0)
    solved_lost = lost()
    monkeypatch.setattr(surgeon, "SOLVED", 0)
    assert one_by_one_lost < 0.9 * solved_lost < 0.9 * 0.9 * lost()


def test_result_is_the_same_however_many_outputs_are_emptied_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moment = layer(outputs=5, inputs=8)
    whole = without_weights(weight, moment, 25)
    monkeypatch.setattr(one_by_one, "CHUNK_BYTES", 2 * 8 * 8 * 8)
    assert torch.equal(without_weights(weight, moment, 25), whole)


def test_twin_inputs_take_over_all_of_what_goes() -> None:
    weight, moment = layer()
    pruned = without_inputs(weight, moment, [0, 1])
    assert not pruned[:, :2].any()
    assert output_error(weight, pruned, moment) < 0.02
    torch.testing.assert_close(pruned[:, 4:6], weight[:, 4:6] + weight[:, :2], rtol=0.1, atol=0.1)


@pytest.mark.usefixtures("way")
def test_groups_are_pruned_by_their_own_inputs() -> None:
    weight, moment = layer(outputs=6)
    both = without_weights(torch.cat([weight, weight]), torch.cat([moment, moment * 1e-6]), 48)
    assert (both[:6] != 0).all()
    assert not both[6:].any()


@pytest.mark.usefixtures("way")
def test_inputs_that_are_always_zero_are_no_trap() -> None:
    weight, moment = layer()
    moment[:, :4], moment[:, :, :4] = 0.0, 0.0
    pruned = without_weights(weight, moment, 20)
    assert int((pruned == 0).sum()) == 20
    assert int((pruned[:, :4] == 0).sum()) > 14
    blind = without_weights(weight, torch.zeros_like(moment), 12)
    assert torch.equal(blind, weight.masked_fill(weight.abs() <= weight.abs().flatten().kthvalue(12).values, 0.0))


@pytest.mark.usefixtures("way")
def test_weights_go_where_inputs_are_weak_and_not_everywhere_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    strength = torch.ones(256).double()
    strength[128:] = 1e-4
    weight = torch.randint(0, 2, (4, 256), generator=generator) * 2.0 - 1.0
    pruned = without_weights(weight, torch.diag(strength)[None], 4 * 128)
    assert not pruned[:, 128:].any()
    assert (pruned[:, :128] != 0).all()


@pytest.mark.usefixtures("way")
def test_weights_that_are_zero_already_count_and_stay_so() -> None:
    weight, moment = layer(outputs=16, inputs=80)
    before = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    pruned = without_weights(weight.masked_fill(before, 0.0), moment, 900)
    assert not pruned[before].any()
    assert int((pruned == 0).sum()) == 900
    assert int((without_weights(weight.masked_fill(before, 0.0), moment, 3) == 0).sum()) == int(before.sum())
