"""How much CPU a shadow may take: a token bucket of CPU seconds. Pure; the clocks are arguments."""

from __future__ import annotations

BURST_S = 1.0  # of unused time, in which the share may be saved up


class CpuBudget:
    """Fills with `share` CPU seconds a second; what was used is taken out, and below zero there is a wait.

    What a request costs is known only afterwards, so it may run into debt, and the debt is waited for. Over any time
    `t` the process takes at most `share * (t + BURST_S)` and one request.

    Args:
        share: of one core.
        now_s: monotonic.
        cpu_s: what the process has used until now; only what follows counts.
    """

    def __init__(self, share: float, *, now_s: float, cpu_s: float) -> None:
        self._share, self._now_s, self._cpu_s = share, now_s, cpu_s
        self._level_s = share * BURST_S

    def wait_s(self, *, now_s: float, cpu_s: float) -> float:
        """How long to wait before the next request; 0: it may run now."""
        filled_s = self._share * max(0.0, now_s - self._now_s)
        used_s = max(0.0, cpu_s - self._cpu_s)
        self._level_s = min(self._share * BURST_S, self._level_s + filled_s - used_s)
        self._now_s, self._cpu_s = now_s, cpu_s
        return max(0.0, -self._level_s / self._share)
