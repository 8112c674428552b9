"""How often somebody may ask: token buckets by name, bounded in number. The clock is an argument.

Each API process counts by itself: with two of them an identity gets twice as much.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

KEPT: Final = 10_000  # buckets; beyond it the one that was asked least recently is forgotten, which fills it


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Rate:
    """So many a second on average, and so many at once.

    >>> rate = Rate(per_s=1.0, burst=2)
    >>> [rate.wait_s("a", now=0.0) for _ in range(3)]
    [0.0, 0.0, 1.0]
    >>> rate.wait_s("b", now=0.0), rate.wait_s("a", now=1.0)
    (0.0, 0.0)
    """

    def __init__(self, *, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, name: str, *, now: float) -> float:
        """Take one; 0: it was there, else nothing is taken and this is when it will be, in seconds."""
        with self._lock:
            bucket = self._buckets.pop(name, None) or _Bucket(self._burst, now)
            self._buckets[name] = bucket
            if len(self._buckets) > KEPT:
                self._buckets.popitem(last=False)
            bucket.tokens = min(self._burst, bucket.tokens + max(0.0, now - bucket.at) * self._per_s)
            bucket.at = now
            if bucket.tokens >= 1:
                bucket.tokens -= 1
                return 0.0
            return (1 - bucket.tokens) / self._per_s


def whole_seconds(wait_s: float) -> int:
    """For the header Retry-After, which has no fractions: rounded up."""
    return max(1, math.ceil(wait_s))
