"""How long to wait before the next try: doubled, capped, jittered. The randomness is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_s` up to `cap_s`."""

    first_s: float
    cap_s: float

    def delay_s(self, attempt: int, chance: float) -> float:
        """The wait before a try.

        Args:
            attempt: 1 before the first repetition.
            chance: uniform in [0, 1); it spreads the wait over its upper half, so that a fleet does not move as one.
        """
        longest: float = min(self.cap_s, self.first_s * 2.0 ** min(max(attempt, 1) - 1, 32))
        return longest * (0.5 + 0.5 * chance)
