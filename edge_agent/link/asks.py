"""Questions to the registry: which are open, by correlation data."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.protocol.messages import Ask, AskKind, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic

if TYPE_CHECKING:
    from edge_agent.link.ports import Link

OPEN_LIMIT = 256


@dataclass(frozen=True, slots=True)
class OpenAsk:
    """A question without an answer yet."""

    kind: AskKind
    sha256: str | None


class Asks:
    """Sends questions and recognises their answers."""

    def __init__(self, link: Link, device_id: str) -> None:
        self._link, self._topic = link, device_topic(device_id, DeviceTopic.ASK)
        self._open: dict[bytes, OpenAsk] = {}
        self.connected = False

    def send(self, ask: Ask) -> bool:
        """Ask; False when there is no connection."""
        if not self.connected:
            return False
        correlation = secrets.token_bytes(8)
        while len(self._open) >= OPEN_LIMIT:
            del self._open[next(iter(self._open))]
        self._open[correlation] = OpenAsk(ask.kind, ask.sha256)
        self._link.publish(self._topic, encode(ask), qos=1, correlation=correlation)
        return True

    def answered(self, correlation: bytes | None) -> OpenAsk | None:
        """The question that an answer belongs to; None: it was never asked, or was answered before."""
        return None if correlation is None else self._open.pop(correlation, None)

    def forget(self) -> None:
        """The connection is lost, and the open questions with it."""
        self._open.clear()
