"""Bounds that hold at every look: whoever looks a thousand times is misled no more often than who looks once. Pure.

One value for each device, because what one device measures hangs together: a thousand requests on a hot device are one
observation of heat, not a thousand. A bound at level `alpha` is above the truth at any time at all with a probability
of at most `alpha` (a confidence sequence), so that no look has to be planned and none costs anything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# The prior of the effect, in standard deviations between devices, is normal around 0 with the variance 1 / this. Small:
# it expects large effects, and finds them on few devices; the price for small ones is a device or two.
PRECISION: Final = 0.1
# Shares of the largest stake that can't lose everything; each is a strategy, and the evidence is their mean.
STAKES: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98)
BISECTIONS: Final = 40


def mean_at_least(values: Sequence[float], *, alpha: float) -> float:
    """The lower bound of the mean of what scatters about normally with an unknown spread.

    Returns:
        In the unit of `values`; minus infinity while there are too few of them to say anything.

    Source: the t-test with a normal mixture over the standardized effect, of Wang and Ramdas 2023, "Anytime-valid
    t-tests and confidence sequences for Gaussian means with unknown variance", arXiv:2310.03722, after Lai 1976.
    """
    number = len(values)
    if not number:
        return -math.inf
    mean = math.fsum(values) / number
    scatter = math.fsum((value - mean) ** 2 for value in values)
    weight = number + PRECISION
    kept = (alpha * math.sqrt(PRECISION / weight)) ** (2 / number)
    room = number * number / weight - number * (1 - kept)
    return mean - math.sqrt(scatter * (1 - kept) / room) if room > 0 else -math.inf


def evidence_of_share(shares: Sequence[float], *, allowed: float) -> float:
    """How many times a stake has grown that was bet on the mean share being above `allowed`.

    If it is not, then it ever grows to `1 / alpha` with a probability of at most `alpha`, whatever the distribution.

    Args:
        shares: one for each device, each in [0, 1].
        allowed: in (0, 1).

    Source: Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", arXiv:2010.09686;
    here with fixed stakes, whose mean is a martingale as each of them is.
    """
    logs = [math.fsum(math.log1p(stake * (share / allowed - 1)) for share in shares) for stake in STAKES]
    highest = max(logs)
    mean = math.fsum(math.exp(log - highest) for log in logs) / len(logs)
    return math.exp(min(700.0, highest + math.log(mean)))


def share_at_least(shares: Sequence[float], *, alpha: float) -> float:
    """The lower bound of a mean share: the highest that the evidence speaks against; 0 while it speaks against none."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if evidence_of_share(shares, allowed=middle) >= 1 / alpha:
            low = middle
        else:
            high = middle
    return low
