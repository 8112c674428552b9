"""How near a model's answers are to those of the float model. Pure: numpy in, a figure out.

A metric on a few hundred rows moves in steps of a row; the signal-to-noise ratio of the outputs tells candidates apart
that the metric can't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressors.bootstrap import Estimate

MOST_DB = 200.0  # of answers that are equal
FEW_SOURCES = 30  # below, an interval of the bootstrap is not believed
ALIKE_DB = 80.0  # noise of a ten-thousandth: another order of the same sums, as an export to float makes it


def snr_db(expected: NDArray[np.generic], given: NDArray[np.generic]) -> float:
    """Signal-to-noise ratio in dB: the variance of the expected values over the mean squared error.

    A mean that all rows share is no signal: a price of 100,000 that never changes is not predicted well.
    """
    wanted, got = expected.astype(np.float64), given.astype(np.float64)
    noise = float(np.mean((wanted - got) ** 2))
    signal = float(np.mean((wanted - wanted.mean(axis=0, keepdims=True)) ** 2))
    if noise == 0.0:
        return MOST_DB
    if signal == 0.0 or not np.isfinite(noise):
        return -MOST_DB
    return float(np.clip(10.0 * np.log10(signal / noise), -MOST_DB, MOST_DB))


def noise_db(before: Estimate, after: Estimate) -> float | None:
    """Noise over signal in dB of what `after` answers, where too few sources can tell what it loses; else None.

    Below what an export to float makes all are alike.
    """
    if before.sources >= FEW_SOURCES:
        return None
    return -min(snr_db(before.outputs, after.outputs), ALIKE_DB)


def loss_sources(before: Estimate, after: Estimate) -> int | None:
    """How many independent sources tell what `after` loses; None: both answer alike, and would on other rows."""
    return None if snr_db(before.outputs, after.outputs) >= ALIKE_DB else after.sources
