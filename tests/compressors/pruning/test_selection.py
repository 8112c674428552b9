from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from compressors.errors import NoEffectError
from compressors.pruning.coupling import Coupling
from compressors.pruning.schedule import cubic, shared_out
from compressors.pruning.selection import Widths, choose_globally, choose_per_layer

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDE, NARROW = Coupling("wide", 32, 1, ()), Coupling("narrow", 16, 2, ())
SCORES = {WIDE: torch.arange(32.0), NARROW: torch.arange(8.0) + 100.0}


def left(removed: Mapping[Coupling, int]) -> float:
    """A channel of either costs as much: 48 in all."""
    return 1.0 - (removed.get(WIDE, 0) + 2 * removed.get(NARROW, 0)) / 48


def test_globally_the_least_units_go_wherever_they_are() -> None:
    gone = choose_globally(SCORES, left, 0.7, Widths(8, 8))
    assert gone == {WIDE: list(range(16)), NARROW: []}


def test_per_layer_both_give_the_same_ratio_and_whole_units() -> None:
    gone = choose_per_layer(SCORES, left, 0.5, Widths(4, 4))
    assert gone == {WIDE: list(range(16)), NARROW: list(range(4))}


def test_what_the_last_taken_made_needless_comes_back() -> None:
    """The wide one costs next to nothing, so that the narrow one has to give as well: then the wide one need not."""

    def size(removed: Mapping[Coupling, int]) -> float:
        return 1.0 - 0.001 * removed.get(WIDE, 0) - 0.1 * removed.get(NARROW, 0)

    gone = choose_globally(SCORES, size, 0.65, Widths(8, 8))
    assert gone == {WIDE: [], NARROW: list(range(4))}


def test_limit_out_of_reach_names_what_is_left() -> None:
    for choose in (choose_globally, choose_per_layer):
        with pytest.raises(NoEffectError, match=r"33\.3% of the multiply-accumulates are left, and 20\.0% are asked"):
            choose(SCORES, left, 0.2, Widths(8, 8))


def test_schedule_takes_most_early_and_ends_where_it_should() -> None:
    shares = cubic(0.8, 4)
    steps = [b - a for a, b in zip([0.0, *shares], shares, strict=False)]
    assert shares[-1] == pytest.approx(0.8)
    assert steps == sorted(steps, reverse=True)
    assert shared_out(10, 4) == [2, 2, 2, 4]
