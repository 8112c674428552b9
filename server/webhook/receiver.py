"""The operator's program, over HTTP. What is logged or raised names its host alone: the rest may be a secret."""

from __future__ import annotations

from typing import Final

import httpx

from server.errors import RegistryError, SettingsError
from server.webhook.rules import SIGNATURE_HEADER, signature_of

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 10.0
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class ReceiverUnavailableError(RegistryError):
    """It was not reached, or did not answer."""

    code = "receiver_unavailable"
    retryable = True


def shown_address(url: str) -> str:
    """What may be shown of an address: no user, password, path or query."""
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"


class Receiver:
    """Where decisions are posted to; one thread calls it.

    Raises:
        SettingsError: no request can be sent to such an address.
    """

    def __init__(self, url: str, secret: str | None = None, *, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as exc:
            raise SettingsError("The setting webhook_url is not usable: it is not a valid address.") from exc
        self._secret = secret
        self.name = shown_address(url)
        self._http = httpx.Client(
            timeout=httpx.Timeout(answer_timeout_s, connect=min(CONNECT_TIMEOUT_S, answer_timeout_s)),
            headers={"User-Agent": "shoal-registry", "Content-Type": "application/json"},
            follow_redirects=False,
            trust_env=self._url.host not in LOOPBACK,  # no proxy of the environment reaches this machine's own loopback
        )

    def post(self, body: bytes) -> int:
        """Send one document; the HTTP status of the answer, whose body nobody reads.

        Raises:
            ReceiverUnavailableError: no answer came; whether the document did is not known.
        """
        headers = {SIGNATURE_HEADER: signature_of(body, self._secret)} if self._secret else {}
        try:
            with self._http.stream("POST", self._url, content=body, headers=headers) as answer:
                return answer.status_code
        except httpx.TimeoutException as exc:
            raise ReceiverUnavailableError("it did not answer in time") from exc
        except httpx.HTTPError as exc:
            raise ReceiverUnavailableError(f"it was not reached ({type(exc).__name__})") from exc

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
