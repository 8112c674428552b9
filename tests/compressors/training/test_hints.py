"""A student that gets hints sees what its teacher sees."""

from __future__ import annotations

import torch
from torch import fx, nn

from compressors.training.hints import Hints

ROWS = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))


def network(hidden: int, seed: int) -> fx.GraphModule:
    torch.manual_seed(seed)
    return fx.symbolic_trace(nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 2)).eval())


def test_loss_of_hints_falls_while_the_student_learns_and_nothing_is_left_behind() -> None:
    teacher, student = network(8, 0), network(24, 1)
    before = [weight.clone() for weight in teacher.parameters()]
    with Hints(student, teacher, 1.0, (ROWS[:1],)) as hints:
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)  # the layer between the features is among them
        losses = []
        for _ in range(120):
            optimizer.zero_grad()
            student(ROWS)
            loss = hints.loss((ROWS,))
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    assert [name for name, _ in student.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(torch.equal(old, new) for old, new in zip(before, teacher.parameters(), strict=True))
    assert not student.get_submodule("2")._forward_pre_hooks


def test_weight_of_hints_scales_their_loss() -> None:
    found = []
    for weight in (1.0, 3.0):
        torch.manual_seed(5)
        student = network(4, 1)
        with Hints(student, network(8, 0), weight, (ROWS[:1],)) as hints:
            student(ROWS)
            found.append(float(hints.loss((ROWS,)).detach()))
    assert abs(found[1] - 3 * found[0]) < 1e-5
