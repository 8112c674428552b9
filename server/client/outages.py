"""Following something for minutes: a registry that is started again in between is no reason to give up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

from server.client.errors import RegistryClientError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

OUTAGE_S: Final = 30.0
PAUSE_S: Final = 0.5
# what waiting may mend; every other code is an answer
PASSING: Final = frozenset({"unreachable", "timeout", "connection_lost", "database_unavailable", "busy", "slow_down"})


def through_outages(ask: Callable[[], T], *, outage_s: float = OUTAGE_S) -> T:
    """Ask, and ask again while the registry is away.

    Raises:
        RegistryClientError: refused, or away for longer than `outage_s`.
    """
    end_s = time.monotonic() + outage_s
    while True:
        try:
            return ask()
        except RegistryClientError as exc:
            if exc.code not in PASSING or time.monotonic() > end_s:
                raise
        time.sleep(PAUSE_S)
