"""The keys of an OpenID provider: found by discovery, kept for a while, fetched anew when a token names another one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx
import jwt

from server.errors import RegistryError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Callable

DISCOVERY: Final = "/.well-known/openid-configuration"
KEEP_S: Final = 3600.0  # a key that the provider has withdrawn is trusted no longer than this
AGAIN_S: Final = 30.0  # between two fetches, whatever tokens name: a stranger must not make us hammer the provider
LIMIT_BYTES: Final = 1024 * 1024
TIMEOUT_S: Final = 5.0
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
OK: Final = 200


class ProviderUnavailableError(RegistryError):
    """The OpenID provider does not answer, or not as one: nobody can log in by it now."""

    code = "provider_unavailable"
    retryable = True


def is_safe(url: object) -> bool:
    """Whether what comes from there can't have been changed on the way: https, or this machine itself."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))


class ProviderKeys:
    """Called by many threads; one of them fetches, the others wait for it."""

    def __init__(self, issuer: str, *, clock: Callable[[], float]) -> None:
        """Args: `issuer`: its URL; `clock`: monotonic seconds."""
        self._issuer = issuer
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._lock = threading.Lock()

    def key(self, key_id: str) -> jwt.PyJWK:
        """The key that a token names.

        Raises:
            ProviderUnavailableError: the keys can't be had.
            UnauthorizedError: the provider has no such key.
        """
        with self._lock:
            now = self._clock()
            is_old = self._fetched_at is None or now - self._fetched_at > KEEP_S
            may_try = self._tried_at is None or now - self._tried_at > AGAIN_S
            if (is_old or key_id not in self._keys) and may_try:
                self._tried_at = now
                self._keys = self._fetch()
                self._fetched_at = now
            elif is_old:
                raise ProviderUnavailableError(f"The OpenID provider {self._issuer} did not answer: try again soon.")
            found = self._keys.get(key_id)
        if found is None:
            raise UnauthorizedError("The token is signed with a key that the OpenID provider does not have.")
        return found

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as http:
            found = self._document(http, f"{self._issuer.rstrip('/')}{DISCOVERY}")
            if found.get("issuer") != self._issuer:
                raise self._unusable(f"calls itself {str(found.get('issuer'))[:200]!r}")
            address = found.get("jwks_uri")
            if not is_safe(address):
                raise self._unusable("names no https address of its keys")
            keys = self._document(http, str(address)).get("keys")
        usable: dict[str, jwt.PyJWK] = {}
        for entry in keys if isinstance(keys, list) else []:
            if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
                continue
            try:
                usable[entry["kid"]] = jwt.PyJWK(entry)
            except jwt.PyJWTError:  # of a kind that is not known here: others may do
                continue
        return usable

    def _document(self, http: httpx.Client, url: str) -> dict[str, Any]:
        content = bytearray()
        try:
            with http.stream("GET", url) as response:
                if response.status_code != OK:
                    raise self._unusable(f"answers with status {response.status_code} at {url}")
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > LIMIT_BYTES:
                        raise self._unusable(f"sends more than {LIMIT_BYTES} bytes at {url}")
            document = httpx.Response(OK, content=bytes(content)).json()
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._unusable("does not answer") from exc
        except (ValueError, RecursionError) as exc:
            raise self._unusable(f"sends no JSON at {url}") from exc
        if not isinstance(document, dict):
            raise self._unusable(f"sends no JSON object at {url}")
        return document

    def _unusable(self, what: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(f"The OpenID provider {self._issuer} {what}: nobody can log in by it now.")
