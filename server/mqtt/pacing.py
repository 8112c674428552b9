"""Rules of time, pure: how long to wait before connecting again, and before sending the next block."""

import random
from dataclasses import dataclass, field
from typing import Final

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 30.0


@dataclass(slots=True)
class Backoff:
    """Doubling pauses with jitter, so that many clients of one broker do not come back in the same instant."""

    first_s: float = FIRST_PAUSE_S
    longest_s: float = LONGEST_PAUSE_S
    chance: random.Random = field(default_factory=random.SystemRandom)
    failures: int = 0

    def next_s(self) -> float:
        """The pause after one more failure: between half and all of min(longest, first * 2^n)."""
        whole_s = min(self.longest_s, self.first_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return float(whole_s * self.chance.uniform(0.5, 1.0))

    def reset(self) -> None:
        """It works again."""
        self.failures = 0


@dataclass(slots=True)
class TokenBucket:
    """Bytes per second with a burst. A message larger than the burst passes at a full bucket, and leaves a debt."""

    rate_bytes_s: float
    burst_bytes: float
    level_bytes: float = field(init=False)
    at_s: float | None = None

    def __post_init__(self) -> None:
        self.level_bytes = self.burst_bytes

    def wait_s(self, size_bytes: int, now_s: float) -> float:
        """How long to wait until `size_bytes` may be sent; 0.0: now. Takes nothing."""
        self._refill(now_s)
        missing = min(size_bytes, self.burst_bytes) - self.level_bytes
        return max(0.0, missing / self.rate_bytes_s)

    def take(self, size_bytes: int, now_s: float) -> None:
        """Account for what was sent."""
        self._refill(now_s)
        self.level_bytes -= size_bytes

    def _refill(self, now_s: float) -> None:
        passed_s = 0.0 if self.at_s is None else max(0.0, now_s - self.at_s)
        self.at_s = now_s
        self.level_bytes = min(self.burst_bytes, self.level_bytes + passed_s * self.rate_bytes_s)
