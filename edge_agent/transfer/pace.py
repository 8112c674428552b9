"""How fast this device may fetch: one limit for all its transfers, whatever they come over. Time comes in."""

from __future__ import annotations

import threading

BURST_S = 1.0  # so much at once: less would make a question of every block


class Pace:
    """A limit in bytes a second that is kept on the average: what has come has come, and what is next waits for it.

    Any thread may use it.

    Args:
        rate_bytes_s: None: as fast as it comes.
    """

    def __init__(self, rate_bytes_s: int | None) -> None:
        self._rate_bytes_s = rate_bytes_s
        self._paid_until_s = float("-inf")  # when what has come will have taken its time
        self._lock = threading.Lock()

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate_bytes_s is not None

    @property
    def at_once_bytes(self) -> int | None:
        """How much to ask for in one question; None: no limit."""
        return None if self._rate_bytes_s is None else int(self._rate_bytes_s * BURST_S)

    def charge(self, size_bytes: int, now_s: float) -> None:
        """So many bytes have come."""
        if self._rate_bytes_s is None:
            return
        with self._lock:
            self._paid_until_s = max(self._paid_until_s, now_s - BURST_S) + size_bytes / self._rate_bytes_s

    def wait_s(self, now_s: float) -> float:
        """How long to wait before the next byte is fetched."""
        return max(0.0, self._paid_until_s - now_s)
