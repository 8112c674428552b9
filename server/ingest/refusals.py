"""Counts what was refused and says so without filling the log: the first of each kind, then a sum now and then."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from server.ingest.intake import Refused

SUMMARY_EVERY_S: Final = 60.0
SILENT: Final = frozenset({"cleared"})


class Refusals:
    """One line for the first refusal of a kind; afterwards at most one line a minute for all of them."""

    def __init__(self, say: Callable[[str], None], *, now_s: float) -> None:
        self._say = say
        self.total: Counter[str] = Counter()
        self._unsaid: Counter[str] = Counter()
        self._summary_at_s = now_s + SUMMARY_EVERY_S

    def add(self, refused: Refused) -> None:
        """Count one; `detail` is quoted, so a payload cannot write lines of its own into the log."""
        if refused.kind in SILENT:
            return
        self.total[refused.kind] += 1
        if self.total[refused.kind] == 1:
            device = f" from device {refused.device}" if refused.device else ""
            self._say(f"Dropped a message{device}: {refused.kind}: {_one_line(refused.detail)} (more are counted).")
        else:
            self._unsaid[refused.kind] += 1

    def tick(self, now_s: float) -> None:
        """Say what came since the last time, if a minute has passed."""
        if now_s < self._summary_at_s:
            return
        self._summary_at_s = now_s + SUMMARY_EVERY_S
        if self._unsaid:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self._unsaid.items()))
            self._say(f"Dropped since the last summary: {counts}.")
            self._unsaid.clear()


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
