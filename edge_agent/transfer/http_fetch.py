"""Fetching an object over HTTPS: a presigned URL and ranges, on a thread of its own, block by block into the inbox."""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.errors import EdgeAgentError
from edge_agent.link import registry_http
from edge_agent.protocol.states import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edge_agent.link.identity import Identity
    from edge_agent.link.inbox import Inbox
    from edge_agent.protocol.manifest import ObjectDescriptor

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class BlockFetched:
    """One block, not yet verified."""

    object_sha256: str
    index: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PassEnded:
    """Every missing block was tried once, or the connection ended before. `reason` None: try again what is missing."""

    object_sha256: str
    reason: Reason | None = None
    detail: str = ""


class _RefusedError(EdgeAgentError):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class _ExpiredError(EdgeAgentError):
    """The presigned URL is not accepted (any more)."""


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
    """One pass over the missing blocks of an object."""

    def __init__(
        self, identity: Identity, descriptor: ObjectDescriptor, missing: Sequence[int], *, inbox: Inbox
    ) -> None:
        super().__init__(name="https", daemon=True)
        self._identity, self._descriptor, self._missing, self._inbox = identity, descriptor, list(missing), inbox
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop after the block at hand."""
        self._cancelled.set()

    def run(self) -> None:
        """Fetch; the last thing put into the inbox is `PassEnded`."""
        sha256 = self._descriptor.sha256
        try:
            self._fetch_all()
            ended = PassEnded(sha256)
        except _RefusedError as exc:
            ended = PassEnded(sha256, exc.reason, str(exc))
        except Exception as exc:  # noqa: BLE001  top of this thread: a pass that never ends would hold its transfer for ever
            ended = PassEnded(sha256, None, f"{type(exc).__name__}: {exc}")
        if not self._cancelled.is_set():
            self._inbox.put(ended)

    def _fetch_all(self) -> None:
        url = self._presigned_url()
        for run in runs(self._missing):
            if self._cancelled.is_set():
                return
            try:
                self._fetch_run(url, *run)
            except _ExpiredError:
                url = self._presigned_url()
                try:
                    self._fetch_run(url, *run)
                except _ExpiredError as exc:
                    raise _RefusedError(Reason.TRANSFER_FAILED, f"the store refuses a fresh URL: {exc}") from exc

    def _fetch_run(self, url: str, first: int, last: int) -> None:
        start, _ = self._descriptor.block_span(first)
        last_start, last_length = self._descriptor.block_span(last)
        connection, path = registry_http.connect(url, timeout_s=TIMEOUT_S)
        try:
            connection.request("GET", path, headers={"Range": f"bytes={start}-{last_start + last_length - 1}"})
            response = connection.getresponse()
            if response.status in (http.client.FORBIDDEN, http.client.UNAUTHORIZED):
                raise _ExpiredError(f"status {response.status}")
            if http.client.BAD_REQUEST <= response.status < http.client.INTERNAL_SERVER_ERROR:
                gone = response.status in (http.client.NOT_FOUND, http.client.GONE)
                reason = Reason.OBJECT_NOT_FOUND if gone else Reason.TRANSFER_FAILED
                raise _RefusedError(reason, f"the store answered with status {response.status}")
            if response.status == http.client.OK:
                _skip(response, start)  # a server without ranges
            elif response.status != http.client.PARTIAL_CONTENT:
                raise http.client.HTTPException(f"the store answered with status {response.status}")
            for index in range(first, last + 1):
                if self._cancelled.is_set():
                    return
                _, length = self._descriptor.block_span(index)
                self._inbox.put(BlockFetched(self._descriptor.sha256, index, response.read(length)))
        finally:
            connection.close()

    def _presigned_url(self) -> str:
        url = f"{self._identity.registry_url}/v1/device/objects/{self._descriptor.sha256}"
        try:
            answer = registry_http.request("GET", url, headers={"Authorization": self._identity.authorization})
        except registry_http.RegistryRefusedError as exc:
            if exc.status >= http.client.INTERNAL_SERVER_ERROR or exc.status == http.client.TOO_MANY_REQUESTS:
                raise
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


def _skip(response: http.client.HTTPResponse, count: int) -> None:
    while count > 0:
        chunk = response.read(min(count, 64 * 1024))
        if not chunk:
            raise http.client.HTTPException("the answer is too short")
        count -= len(chunk)
