"""Messages on their way out: bounded in bytes, filled by any thread, emptied by the thread that runs the connection."""

import threading
from collections import deque
from dataclasses import dataclass

from paho.mqtt.properties import Properties

from server.mqtt.messages import Publication


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message that waits."""

    publication: Publication
    payload: bytes
    retain: bool
    properties: Properties


class Outbox:
    """A queue that knows how many bytes are under way: waiting here, or given to the network and not confirmed."""

    def __init__(self, max_pending_bytes: int) -> None:
        self._max_pending_bytes = max_pending_bytes
        self._pending_bytes = 0
        self._waiting: deque[Outgoing] = deque()
        self._room = threading.Condition()
        self._closed = False

    @property
    def pending_bytes(self) -> int:
        """Bytes under way."""
        return self._pending_bytes

    def room_bytes(self, qos: int) -> int:
        """How much fits. A QoS 0 stream may fill half of it, so that it never keeps a message of state out."""
        share = self._max_pending_bytes // 2 if qos == 0 else self._max_pending_bytes
        return max(0, share - self._pending_bytes)

    def offer(self, message: Outgoing, wait_s: float) -> bool:
        """Queue a message; False: no room within the time, or closed."""
        size_bytes, qos = message.publication.size_bytes, message.publication.qos
        with self._room:
            # A message larger than all the room still passes when nothing else is pending.
            fits = self._room.wait_for(
                lambda: self._closed or self._pending_bytes == 0 or size_bytes <= self.room_bytes(qos), wait_s
            )
            if self._closed or not fits:
                return False
            self._pending_bytes += size_bytes
            self._waiting.append(message)
        return True

    def next(self) -> Outgoing | None:
        """Take the oldest message."""
        with self._room:
            return self._waiting.popleft() if self._waiting else None

    def put_back(self, message: Outgoing) -> None:
        """Undo `next`."""
        with self._room:
            self._waiting.appendleft(message)

    def finish(self, publication: Publication, failure: str | None = None) -> None:
        """Its fate is known: give its bytes free."""
        with self._room:
            self._pending_bytes -= publication.size_bytes
            self._room.notify_all()
        publication.finish(failure)

    def close(self, failure: str) -> None:
        """Take nothing more; what waits has failed."""
        with self._room:
            self._closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._room.notify_all()
        for message in left:
            self.finish(message.publication, failure)
