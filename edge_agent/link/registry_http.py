"""The registry's HTTP endpoints that a device uses, by the standard library alone."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from edge_agent.errors import EdgeAgentError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

MAX_ANSWER_BYTES = 16 << 20
MAX_RETRY_AFTER_S = 600.0


class RegistryUnreachableError(EdgeAgentError):
    """Nobody answers at the address."""

    code = "registry_unreachable"
    retryable = True


class RegistryRefusedError(EdgeAgentError):
    """The registry has answered with an error."""

    code = "registry_refused"

    def __init__(self, message: str, *, status: int, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def is_passing(status: int) -> bool:
    """Whether the same request may be answered otherwise later; every other status of 400 or more is final."""
    return status >= http.client.INTERNAL_SERVER_ERROR or status in (
        http.client.REQUEST_TIMEOUT,
        http.client.TOO_MANY_REQUESTS,
    )


def retry_after_s(headers: Mapping[str, str]) -> float:
    """What `Retry-After` asks for, within reason; 0 where it says nothing, or a date: not every device has the time."""
    text = headers.get("retry-after", "").strip()
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def connect(url: str, *, timeout_s: float, tls: ssl.SSLContext | None = None) -> tuple[http.client.HTTPConnection, str]:
    """A connection to a URL's host, and the path with its query; `tls`: whom an https address must prove to be.

    Raises:
        RegistryUnreachableError: not an http(s) URL.
    """
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise RegistryUnreachableError(f"{url} is no http:// or https:// address")
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, port, timeout=timeout_s, context=tls)
    else:
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)
    path = parts.path or "/"
    return connection, f"{path}?{parts.query}" if parts.query else path


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 15.0,
) -> Answer:
    """One request; redirects are not followed.

    Raises:
        RegistryUnreachableError: no connection, or it broke.
        RegistryRefusedError: a status of 400 or more, with the registry's own words.
    """
    connection, path = connect(url, timeout_s=timeout_s, tls=tls)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        content = response.read(MAX_ANSWER_BYTES + 1)
    except (OSError, http.client.HTTPException) as exc:
        host = urllib.parse.urlsplit(url).netloc
        raise RegistryUnreachableError(f"the registry at {host} does not answer: {exc}") from exc
    finally:
        connection.close()
    if len(content) > MAX_ANSWER_BYTES:
        raise RegistryRefusedError(f"the registry's answer is larger than {MAX_ANSWER_BYTES} bytes", status=502)
    answer_headers = lowered(response)
    if response.status >= http.client.BAD_REQUEST:
        wait_s = retry_after_s(answer_headers)
        raise RegistryRefusedError(_words(content, response.status), status=response.status, retry_after_s=wait_s)
    return Answer(response.status, answer_headers, content)


def lowered(response: http.client.HTTPResponse) -> dict[str, str]:
    """The headers of a response, by their names in small letters."""
    return {name.lower(): value for name, value in response.getheaders()}


def request_json(method: str, url: str, *, document: object, tls: ssl.SSLContext | None = None) -> dict[str, Any]:
    """Send and receive a JSON object.

    Raises:
        RegistryUnreachableError: no connection.
        RegistryRefusedError: an error status, or an answer that is no JSON object.
    """
    headers = {"Content-Type": "application/json"}
    answer = request(method, url, headers=headers, body=json.dumps(document).encode(), tls=tls)
    try:
        parsed = json.loads(answer.body)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise RegistryRefusedError("the address answers, but not as a Shoal registry does", status=answer.status)
    return cast("dict[str, Any]", parsed)


def _words(content: bytes, status: int) -> str:
    try:
        error = json.loads(content)["error"]
        return str(error["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"the registry answered with status {status}"
