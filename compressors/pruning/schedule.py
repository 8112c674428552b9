"""How much is gone after each round of gradual pruning.

Source: Zhu & Gupta 2017, arXiv:1710.01878: a cubic, most of it early, while there is plenty to spare.
"""

from __future__ import annotations


def cubic(final: float, rounds: int) -> list[float]:
    """The share that is gone after each round; the last is `final`."""
    return [final * (1.0 - (1.0 - number / rounds) ** 3) for number in range(1, rounds + 1)]


def shared_out(epochs: int, rounds: int) -> list[int]:
    """Epochs of fine-tuning after each round; the last round, which has most to mend, gets what does not divide."""
    each = epochs // rounds
    return [each] * (rounds - 1) + [epochs - each * (rounds - 1)]
