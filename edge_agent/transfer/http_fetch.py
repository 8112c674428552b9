"""Fetching an object over HTTPS: a presigned URL and ranges, on a thread of its own, block by block into the inbox."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError
from edge_agent.link import registry_http
from edge_agent.protocol.states import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge_agent.link.identity import Identity
    from edge_agent.link.inbox import Inbox
    from edge_agent.link.tls import Tls
    from edge_agent.protocol.manifest import ObjectDescriptor
    from edge_agent.transfer.pace import Pace

TIMEOUT_S = 30.0
# What the kernel takes ahead of a limited pass. Without a limit it takes what it likes, up to megabytes.
LIMITED_RECEIVE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class BlockFetched:
    """One block, not yet verified."""

    object_sha256: str
    index: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PassEnded:
    """Every missing block was tried once, or the connection ended before.

    `reason` None: try again what is missing, not before `retry_after_s`, with `url` if there is one that is good.
    """

    object_sha256: str
    reason: Reason | None = None
    detail: str = ""
    url: str | None = None
    retry_after_s: float = 0.0


class _RefusedError(EdgeAgentError):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _ExpiredError(EdgeAgentError):
    """The presigned URL is not accepted (any more)."""


class _BusyError(EdgeAgentError):
    """The store or the registry can't now."""

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


def runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending blocks as runs (first, last): one range request each."""
    first = last = -2
    for block in blocks:
        if block != last + 1:
            if first >= 0:
                yield first, last
            first = block
        last = block
    if first >= 0:
        yield first, last


class HttpPass(threading.Thread):
    """One pass over the missing blocks of an object.

    Args:
        identity: who asks, and where for a presigned URL.
        descriptor: the object.
        missing: its blocks to fetch, ascending.
        tls: how it connects to API and store.
        inbox: takes `BlockFetched`, and at the end `PassEnded`.
        pace: the limit of this device.
        url: a presigned URL that an earlier pass has left.
    """

    def __init__(
        self,
        identity: Identity,
        descriptor: ObjectDescriptor,
        missing: Sequence[int],
        *,
        tls: Tls,
        inbox: Inbox,
        pace: Pace,
        url: str | None = None,
    ) -> None:
        super().__init__(name="https", daemon=True)
        self._identity, self._descriptor, self._missing, self._inbox = identity, descriptor, list(missing), inbox
        self._pace, self._url, self._tls = pace, url, tls
        self._cancelled = threading.Event()
        self._socket: socket.socket | None = None

    def cancel(self) -> None:
        """Stop now, even where the thread waits for the network."""
        self._cancelled.set()
        if (line := self._socket) is not None:  # read once: the other thread replaces it
            with contextlib.suppress(OSError):  # it is closed already
                line.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Fetch; the last thing put into the inbox is `PassEnded`."""
        sha256 = self._descriptor.sha256
        try:
            self._fetch_all()
            ended = PassEnded(sha256, url=self._url)
        except _RefusedError as exc:
            ended = PassEnded(sha256, exc.reason, str(exc))
        except _BusyError as exc:
            ended = PassEnded(sha256, None, str(exc), self._url, exc.retry_after_s)
        except Exception as exc:  # noqa: BLE001  top of this thread: a pass that never ends would hold its transfer for ever
            ended = PassEnded(sha256, None, f"{type(exc).__name__}: {exc}", self._url)
        if not self._cancelled.is_set():
            self._inbox.put(ended)

    def _fetch_all(self) -> None:
        for run in runs(self._missing):
            if self._cancelled.is_set():
                return
            if self._url is not None:
                try:
                    self._fetch_run(self._url, *run)
                except _ExpiredError:
                    self._url = None
                else:
                    continue
            try:
                self._fetch_run(self._presigned_url(), *run)
            except _ExpiredError as exc:
                raise _RefusedError(Reason.TRANSFER_FAILED, f"the store refuses a fresh URL: {exc}") from exc

    def _fetch_run(self, url: str, first: int, last: int) -> None:
        start, _ = self._descriptor.block_span(first)
        last_start, last_length = self._descriptor.block_span(last)
        connection, path = registry_http.connect(url, timeout_s=TIMEOUT_S, tls=self._tls.objects(url))
        try:
            self._connect(connection)
            connection.request("GET", path, headers={"Range": f"bytes={start}-{last_start + last_length - 1}"})
            response = connection.getresponse()
            _require_content(response)
            self._url = url
            if response.status == http.client.OK:
                _skip(response, start)  # a server without ranges
            for index in range(first, last + 1):
                if self._cancelled.wait(self._pace.wait_s(time.monotonic())):
                    return
                self._take(response, index)
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        connection.connect()
        self._socket = connection.sock
        if self._pace.limited:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LIMITED_RECEIVE_BYTES)
        if self._cancelled.is_set():  # before there was a socket to shut down
            raise http.client.HTTPException("cancelled")

    def _take(self, response: http.client.HTTPResponse, index: int) -> None:
        _, length = self._descriptor.block_span(index)
        payload = response.read(length)
        self._pace.charge(len(payload), time.monotonic())
        if len(payload) < length:
            raise http.client.HTTPException(f"the answer ended within block {index}")
        self._inbox.put(BlockFetched(self._descriptor.sha256, index, payload))

    def _presigned_url(self) -> str:
        url = f"{self._identity.registry_url}/v1/device/objects/{self._descriptor.sha256}"
        try:
            headers = {"Authorization": self._identity.authorization}
            answer = registry_http.request("GET", url, headers=headers, tls=self._tls.registry(url))
        except registry_http.RegistryRefusedError as exc:
            if registry_http.is_passing(exc.status):
                raise _BusyError(str(exc), retry_after_s=exc.retry_after_s) from exc
            reasons = {
                http.client.NOT_FOUND: Reason.OBJECT_NOT_FOUND,
                http.client.GONE: Reason.OBJECT_GONE,
            }
            raise _RefusedError(reasons.get(exc.status, Reason.TRANSFER_FAILED), str(exc)) from exc
        if location := answer.headers.get("location"):
            return location
        try:
            return str(json.loads(answer.body)["url"])
        except (ValueError, KeyError, TypeError) as exc:
            raise http.client.HTTPException("the registry's answer names no URL") from exc


def _require_content(response: http.client.HTTPResponse) -> None:
    """Pass if bytes of the object follow; else say what to do about it."""
    status, words = response.status, f"the store answered with status {response.status}"
    if status in (http.client.OK, http.client.PARTIAL_CONTENT):
        return
    if status == http.client.FORBIDDEN:
        raise _ExpiredError(words)
    if registry_http.is_passing(status):
        raise _BusyError(words, retry_after_s=registry_http.retry_after_s(registry_http.lowered(response)))
    if status < http.client.BAD_REQUEST:
        raise http.client.HTTPException(words)
    gone = status in (http.client.NOT_FOUND, http.client.GONE)
    raise _RefusedError(Reason.OBJECT_NOT_FOUND if gone else Reason.TRANSFER_FAILED, words)


def _skip(response: http.client.HTTPResponse, count: int) -> None:
    while count > 0:
        chunk = response.read(min(count, 64 * 1024))
        if not chunk:
            raise http.client.HTTPException("the answer is too short")
        count -= len(chunk)
