"""What a conversation with the registry needs of its surroundings.

The supervisor gives a connection of its own, a spool on disk; who simulates a fleet gives others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_agent.link.mqtt import Session
    from edge_agent.protocol.messages import Ack


class Link(Protocol):
    """A connection to the broker, made anew by `open`."""

    def open(self, session: Session) -> None:
        """Connect; `Connected` or `Disconnected` follows."""

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, correlation: bytes | None = None
    ) -> None:
        """Send, if there is a connection."""

    def subscribe(self, topic: str, *, qos: int) -> None:
        """Receive a topic."""


class Reports(Protocol):
    """Telemetry that waits to be committed by the registry."""

    @property
    def count(self) -> int:
        """Reports that wait."""

    def pending(self, *, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """The next reports after a sequence: (sequence, payload)."""

    def free(self, ack: Ack) -> int:
        """Let go of what is committed; how many reports that were."""
