"""What values a tensor took, in bounded memory and one pass. Pure: numpy in, counts out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 3e38  # what is beyond is no value but a mask, as attention and padding have it
HALF_BINS = 4096  # on either side of zero; at least 2,048 of them lie within the tensor's range: 8 or more a step


class Histogram:
    """Counts of values in bins of one width, which doubles when a value lies outside.

    Bins begin at multiples of the width, so that doubling merges pairs exactly and loses nothing but resolution. The
    true minimum and maximum are kept beside them.
    """

    def __init__(self) -> None:
        """Nothing seen."""
        self.low, self.high = np.inf, -np.inf
        self.width = 0.0
        self.counts = np.zeros(2 * HALF_BINS, np.int64)

    @property
    def total(self) -> int:
        """How many values were counted; those that only widened the range are not among them."""
        return int(self.counts.sum())

    def widen(self, values: NDArray[np.floating]) -> None:
        """Take note of the extremes of some values alone: that is all that min/max calibration wants."""
        meant = _meant(values)
        if meant.size:
            self.low = min(self.low, float(meant.min()))
            self.high = max(self.high, float(meant.max()))

    def add(self, values: NDArray[np.floating]) -> None:
        """Count values of any shape."""
        meant = _meant(values)
        if not meant.size:
            return
        self.widen(meant)
        self._make_room(max(abs(self.low), abs(self.high)))
        if self.width == 0.0:  # only zeros so far
            self.counts[HALF_BINS] += meant.size
            return
        places = np.floor(meant.ravel() * (1.0 / self.width)).astype(np.int64) + HALF_BINS
        np.clip(places, 0, 2 * HALF_BINS - 1, out=places)  # the largest value may round onto the end
        self.counts += np.bincount(places, minlength=2 * HALF_BINS)

    def centers(self) -> NDArray[np.float64]:
        """The middle of each bin; zeros while only zeros were seen."""
        return np.asarray((np.arange(-HALF_BINS, HALF_BINS) + 0.5) * self.width, np.float64)

    def occupied(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The centres of the bins that hold values, within the true extremes, and their counts."""
        used = np.flatnonzero(self.counts)
        centers = np.clip(self.centers()[used], self.low, self.high)
        return centers, self.counts[used].astype(np.float64)

    def share_outside(self, low: float, high: float) -> float:
        """The share of values beyond a range, to within a bin."""
        if self.total == 0:
            return 0.0
        centers, counts = self.occupied()
        return float(counts[(centers < low - self.width) | (centers > high + self.width)].sum() / counts.sum())

    def quantile(self, share: float) -> float:
        """The value below which this share of the values lies, to within a bin."""
        centers, counts = self.occupied()
        place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
        return float(centers[min(place, len(centers) - 1)])

    def _make_room(self, magnitude: float) -> None:
        if magnitude == 0.0:
            return
        needed = 2.0 ** np.ceil(np.log2(magnitude / HALF_BINS))
        if self.width == 0.0:
            zeros = self.counts[HALF_BINS]
            self.counts[:] = 0
            self.width = float(needed)
            self.counts[HALF_BINS] = zeros
            return
        while self.width < needed:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[HALF_BINS // 2 : HALF_BINS // 2 + HALF_BINS] = merged
            self.width *= 2.0


def _meant(values: NDArray[np.floating]) -> NDArray[Any]:
    """The values without infinities and those that stand for them."""
    if not values.size or (values.min() > -LARGEST and values.max() < LARGEST):
        return values
    return np.asarray(values[np.abs(values) < LARGEST])
