"""Bad input is counted, and said once: a flood of it must not fill a log."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger(__name__)


class Complaints:
    """What came from outside and could not be used."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, key: str, sentence: str) -> None:
        """Count one; the first of its key is logged."""
        self.counts[key] += 1
        if self.counts[key] == 1:
            log.warning("%s (said once; further ones are counted as %s)", sentence, key)
