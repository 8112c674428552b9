"""Which units go, so that a network's cost comes down to a share of what it was.

Widths end at multiples (8, 16), because kernels compute that many channels at once: the rest of a multiple is paid for
anyhow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from compressors.errors import NoEffectError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from compressors.pruning.coupling import Coupling

    Scores = Mapping[Coupling, torch.Tensor]  # what each unit is worth, shape (units,)
    Size = Callable[[Mapping[Coupling, int]], float]  # what is left without so many units of each coupling, a share

SEARCH_STEPS = 40  # halvings of the ratio that all layers share


@dataclass(frozen=True)
class Widths:
    """What a layer's width may be: a multiple of `multiple_of` channels, at least `at_least`."""

    multiple_of: int
    at_least: int

    def below(self, width: int) -> int | None:
        """The next width that is smaller; None at the smallest."""
        return self.at_most(width - 1)

    def at_most(self, width: int) -> int | None:
        """The largest width up to this one; None where that is too small."""
        allowed = width // self.multiple_of * self.multiple_of
        return allowed if allowed >= max(self.at_least, 1) else None


def choose_globally(scores: Scores, size: Size, limit: float, widths: Widths) -> dict[Coupling, list[int]]:
    """Take, again and again, the units that are worth least wherever they are, until the size is within its limit.

    Args:
        scores: comparable between couplings.
        size: see `Size`.
        limit: what the size must come down to.
        widths: of the layers.

    Returns:
        The units to remove.

    Raises:
        NoEffectError: the narrowest widths are still above the limit.
    """
    order = {coupling: torch.argsort(values, stable=True) for coupling, values in scores.items()}
    worth = {coupling: scores[coupling][order[coupling]].cumsum(0).tolist() for coupling in scores}
    removed, taken = dict.fromkeys(scores, 0), []
    while size(removed) > limit:
        best: tuple[float, Coupling, int] | None = None
        for coupling in scores:
            units = _next(coupling, removed[coupling], widths)
            if units is None:
                continue
            gone = removed[coupling]
            before = worth[coupling][gone - 1] if gone else 0.0
            price = (worth[coupling][gone + units - 1] - before) / units
            if best is None or price < best[0]:
                best = price, coupling, units
        if best is None:
            raise _too_narrow(size(removed), limit)
        removed[best[1]] += best[2]
        taken.append(best[1:])
    _give_back(removed, taken, size, limit)
    return {coupling: order[coupling][:count].tolist() for coupling, count in removed.items()}


def _give_back(removed: dict[Coupling, int], taken: list[tuple[Coupling, int]], size: Size, limit: float) -> None:
    """The last units of each coupling come back where the size allows it: the last one taken may have been large."""
    settled: set[Coupling] = set()
    for coupling, units in reversed(taken):
        if coupling in settled:
            continue
        if size({**removed, coupling: removed[coupling] - units}) <= limit:
            removed[coupling] -= units
        else:
            settled.add(coupling)


def choose_per_layer(scores: Scores, size: Size, limit: float, widths: Widths) -> dict[Coupling, list[int]]:
    """Take the same ratio of every layer, the smallest that brings the size within its limit; see `choose_globally`."""

    def removed_at(ratio: float) -> dict[Coupling, int]:
        return {coupling: _removed(coupling, ratio, widths) for coupling in scores}

    if size(removed_at(1.0)) > limit:
        raise _too_narrow(size(removed_at(1.0)), limit)
    low, high = 0.0, 1.0
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if size(removed_at(middle)) <= limit else (middle, high)
    return {
        coupling: torch.argsort(scores[coupling], stable=True)[:count].tolist()
        for coupling, count in removed_at(high).items()
    }


def _next(coupling: Coupling, removed: int, widths: Widths) -> int | None:
    """How many more units go at the next narrower width."""
    width = (coupling.units - removed) * coupling.groups
    narrower = widths.below(width)
    while narrower is not None and narrower % coupling.groups:
        narrower = widths.below(narrower)
    return None if narrower is None else (width - narrower) // coupling.groups


def _removed(coupling: Coupling, ratio: float, widths: Widths) -> int:
    """The most units that may go so that no more than this ratio of them does."""
    removed = 0
    while (more := _next(coupling, removed, widths)) is not None and removed + more <= ratio * coupling.units:
        removed += more
    return removed


def _too_narrow(size: float, limit: float) -> NoEffectError:
    return NoEffectError(
        f"with every layer at its least width {size:.1%} of the multiply-accumulates are left, and {limit:.1%} are "
        "asked for: ask for more, or lower multiple_of"
    )
