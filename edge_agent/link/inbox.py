"""Where other threads leave what the one worker shall handle; it wakes the worker's selector."""

from __future__ import annotations

import contextlib
import os
import queue
import threading


class Inbox:
    """A bounded queue with a descriptor to wait for.

    A full inbox makes the sender wait: paho then stops reading, and the broker keeps or drops what it has for us
    instead of this small device running out of memory.
    """

    def __init__(self, limit: int = 64) -> None:
        self._queue: queue.Queue[object] = queue.Queue(limit)
        self._closed = threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """Readable when something is here."""
        return self._reader

    def put(self, item: object) -> None:
        """Leave something; waits while the inbox is full, does nothing once it is closed."""
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
            except queue.Full:
                continue
            self.wake()
            return

    def drain(self, limit: int = 32) -> list[object]:
        """What is here, at most `limit`; if more is left the descriptor stays readable."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass
        items: list[object] = []
        while len(items) < limit:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                return items
        self.wake()
        return items

    def refuse(self) -> None:
        """Whoever puts something from now on is not kept waiting."""
        self._closed.set()

    def close(self) -> None:
        """Let go of the descriptors, when no thread is left that puts."""
        self.refuse()
        os.close(self._reader)
        os.close(self._writer)

    def wake(self) -> None:
        """Make the worker look; safe in a signal handler."""
        with contextlib.suppress(BlockingIOError, OSError):  # full: it is awake already; closed: nobody to wake
            os.write(self._writer, b"\0")
