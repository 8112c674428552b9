"""What an agent has on its disk, in memory: counters and a spool. It survives a simulated reboot."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from edge_agent.deployments.events import Persist
from edge_agent.deployments.records import Accepted, Snapshot
from edge_agent.protocol.messages import TelemetryReport, encode
from edge_agent.storage.store import merged

if TYPE_CHECKING:
    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.protocol.messages import Ack


class Memory:
    """The core's records, the variants, and `Reservations`."""

    def __init__(self) -> None:
        self._written = Persist()
        self._reserved: dict[str, int] = {}
        self.installed: dict[str, VariantManifest] = {}

    def persist(self, change: Persist) -> None:
        """Keep a change."""
        self._written = merged(self._written, change)

    def snapshot(self) -> Snapshot:
        """What a restart finds."""
        written = self._written
        return Snapshot(accepted=written.accepted or Accepted(), records=written.records, slots=written.slots)

    def reserved(self, counter: str) -> int:
        """The first number that was not given yet."""
        return self._reserved.get(counter, 0)

    def reserve(self, counter: str, end: int) -> None:
        """Numbers below `end` may be given."""
        self._reserved[counter] = end


class MemorySpool:
    """`edge_agent.link.ports.Reports` without a disk or a limit."""

    def __init__(self) -> None:
        self.spool_id = secrets.token_hex(16)
        self._waiting: dict[int, bytes] = {}
        self._last = 0

    @property
    def count(self) -> int:
        """Reports that wait."""
        return len(self._waiting)

    @property
    def taken(self) -> int:
        """Reports that were ever put in."""
        return self._last

    def waiting_up_to(self, number: int) -> int:
        """Reports of the first so many that wait."""
        return sum(one <= number for one in self._waiting)

    def add(self, report: TelemetryReport) -> None:
        """Take a report in; it gets its number here."""
        self._last += 1
        numbered = report.model_copy(update={"spool_id": self.spool_id, "sequence": self._last})
        self._waiting[self._last] = encode(numbered)

    def pending(self, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """The oldest behind a sequence."""
        return [(number, payload) for number, payload in self._waiting.items() if number > after][:limit]

    def free(self, ack: Ack) -> int:
        """Forget what is committed."""
        before = len(self._waiting)
        for one in ack.ranges:
            if one.spool_id == self.spool_id:
                for number in range(one.first, one.last + 1):
                    self._waiting.pop(number, None)
        return before - len(self._waiting)
