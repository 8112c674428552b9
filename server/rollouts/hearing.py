"""Since when the registry hears devices: what it was not there to hear is nobody's silence.

A registry that is stopped for an hour, loses its broker or sleeps with its machine would else find every device on its
way lost the moment it is back, and stop the lanes for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WATCHED_S: Final = (
    180.0  # whoever has not looked for longer (a tick of a huge fleet takes a minute) knows nothing of it
)


class Hearing:
    """Remembers since when every look found that what devices say arrives; begins with the first look."""

    def __init__(self, works: Callable[[], bool], *, clock: Callable[[], float]) -> None:
        """`works`: whether it does now. `clock`: seconds since 1970."""
        self._works, self._clock = works, clock
        self._looked_at, self._since = 0.0, 0.0

    def since(self) -> float:
        """Look once more."""
        now, before = self._clock(), self._looked_at
        self._looked_at = now
        if not before <= now <= before + WATCHED_S or not self._works():
            self._since = now
        return self._since
