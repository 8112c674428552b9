from __future__ import annotations

import torch

from compressors.pruning.surgeon import output_error, without_inputs, without_weights


def layer(outputs: int = 6, inputs: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the moment of inputs that go together in pairs."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    half = torch.randn(500, inputs // 2, generator=generator)
    seen = torch.cat([half, half + 0.1 * torch.randn(500, inputs // 2, generator=generator)], 1).double()
    return weight, (seen.T @ seen / 500)[None]


def test_without_weights_has_as_many_zeros_and_loses_less_than_plain_zeros() -> None:
    weight, moment = layer()
    pruned = without_weights(weight, moment, 24)
    smallest = weight.masked_fill(weight.abs() <= weight.abs().flatten().kthvalue(24).values, 0.0)
    assert int((pruned == 0).sum()) == 24
    assert output_error(weight, pruned, moment) < 0.3 * output_error(weight, smallest, moment)


def test_one_weight_of_one_output_is_moved_as_the_closed_form_says() -> None:
    weight, moment = layer(outputs=1, inputs=4)
    pruned = without_weights(weight, moment, 1)
    gone = int((pruned == 0).flatten().nonzero()[0])
    damped = moment[0] + 0.01 * moment[0].diagonal().mean() * torch.eye(4)
    # columns are taken in order: those before the one that goes are final
    inverse = torch.linalg.inv(damped[gone:, gone:])
    expected = weight[0].double()
    expected[gone:] -= expected[gone] / inverse[0, 0] * inverse[0]
    torch.testing.assert_close(pruned[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_twin_inputs_take_over_all_of_what_goes() -> None:
    weight, moment = layer()
    pruned = without_inputs(weight, moment, [0, 1])
    assert not pruned[:, :2].any()
    assert output_error(weight, pruned, moment) < 0.02
    torch.testing.assert_close(pruned[:, 4:6], weight[:, 4:6] + weight[:, :2], rtol=0.1, atol=0.1)


def test_groups_are_pruned_by_their_own_inputs() -> None:
    weight, moment = layer(outputs=6)
    both = without_weights(torch.cat([weight, weight]), torch.cat([moment, moment * 1e-6]), 48)
    assert (both[:6] != 0).all()
    assert not both[6:].any()


def test_inputs_that_are_always_zero_are_no_trap() -> None:
    weight, moment = layer()
    moment[:, :4], moment[:, :, :4] = 0.0, 0.0
    pruned = without_weights(weight, moment, 20)
    assert int((pruned == 0).sum()) == 20
    assert int((pruned[:, :4] == 0).sum()) > 14
    blind = without_weights(weight, torch.zeros_like(moment), 12)
    assert torch.equal(blind, weight.masked_fill(weight.abs() <= weight.abs().flatten().kthvalue(12).values, 0.0))


def test_weights_go_where_inputs_are_weak_and_not_everywhere_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    strength = torch.ones(256).double()
    strength[128:] = 1e-4
    weight = torch.randint(0, 2, (4, 256), generator=generator) * 2.0 - 1.0
    pruned = without_weights(weight, torch.diag(strength)[None], 4 * 128)
    assert not pruned[:, 128:].any()
    assert (pruned[:, :128] != 0).all()


def test_weights_that_are_zero_already_count_and_stay_so() -> None:
    weight, moment = layer(outputs=16, inputs=80)
    before = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    pruned = without_weights(weight.masked_fill(before, 0.0), moment, 900)
    assert not pruned[before].any()
    assert int((pruned == 0).sum()) == 900
    assert int((without_weights(weight.masked_fill(before, 0.0), moment, 3) == 0).sum()) == int(before.sum())
