"""From `logging` into the ring: the agent's lines also go where they always went, to standard error."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from edge_agent.logbook.lines import hide
from edge_agent.protocol.inquiry import LogLevel

if TYPE_CHECKING:
    from collections.abc import Collection

    from edge_agent.logbook.ring import LogRing


class RingHandler(logging.Handler):
    """Keeps every line of `logging`.

    Args:
        ring: where.
        secrets: that must not be kept, wherever they come up.
    """

    def __init__(self, ring: LogRing, *, secrets: Collection[str]) -> None:
        super().__init__(logging.INFO)
        self._ring, self._secrets = ring, tuple(secrets)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line; never raises, as a log must not end what it tells of."""
        try:
            text = hide(self.format(record), self._secrets)
            self._ring.append(_level(record.levelno), text, unix_s=record.created, now_s=time.monotonic())
        except Exception:  # noqa: BLE001  a line that can't be formatted, a disk that can't be read
            self.handleError(record)


def _level(number: int) -> LogLevel:
    if number >= logging.ERROR:
        return LogLevel.ERROR
    return LogLevel.WARNING if number >= logging.WARNING else LogLevel.INFO
