"""Sweeps regularly, in a thread of its own: a store with many objects takes long to list, and nobody may wait."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from server.errors import RegistryError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from server.schemas.retention import SweepReport

log = logging.getLogger(__name__)

FIRST_S: Final = 60.0  # after a start: whoever tries something out and ends it again is not slowed down
EVERY_S: Final = 3600.0


def keep_sweeping(
    sweep: Callable[[], SweepReport],
    stop: threading.Event,
    *,
    is_due: Callable[[], bool] = lambda: True,
    first_s: float = FIRST_S,
    every_s: float = EVERY_S,
) -> None:
    """Call `sweep` until `stop` is set, whenever a pause is over and `is_due` holds (this process leads)."""
    pause_s = first_s
    while not stop.wait(pause_s):
        pause_s = every_s
        if not is_due():
            pause_s = first_s
            continue
        try:
            report = sweep()
        except RegistryError as exc:
            log.warning("nothing more is swept this time: %s", exc)
            continue
        except Exception:  # the top of the loop: the registry goes on without tidying up
            log.exception("a sweep failed")
            continue
        for swept in report.swept:
            if swept.count:
                log.info("deleted %d %s, %d bytes: %s", swept.count, swept.kind, swept.size_bytes, swept.rule)
