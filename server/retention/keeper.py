"""Sweeps regularly and when asked, in a thread of its own: a large store takes long to list, and nobody may wait."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from server.errors import RegistryError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from server.schemas.retention import Swept

log = logging.getLogger(__name__)

FIRST_S: Final = 60.0  # after a start: whoever tries something out and ends it again is not slowed down
EVERY_S: Final = 3600.0
LOOK_S: Final = 2.0


def keep_sweeping(
    sweep: Callable[[], Iterable[Swept]],
    stop: threading.Event,
    *,
    latest_request: Callable[[], int],
    is_due: Callable[[], bool] = lambda: True,
    first_s: float = FIRST_S,
    every_s: float = EVERY_S,
    look_s: float = LOOK_S,
) -> None:
    """Sweep until `stop` is set: some time after the start, then regularly, and whenever somebody has asked for it.

    Args:
        sweep: what this process owns.
        stop: ends it.
        latest_request: a number that grows with each wish; one from before the start is fulfilled with the first sweep.
        is_due: whether this process is the one to do it (it leads).
        first_s: pause before the first sweep.
        every_s: pause between two.
        look_s: how often it looks whether somebody has asked.
    """
    fulfilled: int | None = None
    next_s = time.monotonic() + first_s
    pause_s = 0.0
    while not stop.wait(pause_s):
        pause_s = look_s
        try:
            asked = latest_request()
        except RegistryError:
            continue  # without a database there is nothing to sweep either
        fulfilled = asked if fulfilled is None else fulfilled
        if (asked == fulfilled and time.monotonic() < next_s) or not is_due():
            continue
        fulfilled, next_s = asked, time.monotonic() + every_s
        try:
            done = sweep()
            for swept in done:
                if swept.count:
                    verb = "merged" if swept.kind == "merged" else "deleted"
                    log.info("%s %d %s, %d bytes: %s", verb, swept.count, swept.kind, swept.size_bytes, swept.rule)
        except RegistryError as exc:
            log.warning("nothing more is swept this time: %s", exc)
        except Exception:  # the top of the loop: the registry goes on without tidying up
            log.exception("a sweep failed")
