"""Logging in by an OpenID provider from a terminal: the device authorization grant (RFC 8628), and refreshing.

The registry says in its challenge which provider, and as which client. The person logs in with a browser on any
machine; no secret of theirs, and none of the client, comes by here.
"""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel

from server.client.errors import RegistryClientError

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S: Final = 15.0
REFRESH_EARLY_S: Final = 30.0  # a token that would expire on the way is refreshed before
FIRST_INTERVAL_S: Final = 5.0  # RFC 8628, 3.2: where the provider names none
SLOWER_S: Final = 5.0  # RFC 8628, 3.5
GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_CHALLENGE: Final = re.compile(r'(oidc_issuer|oidc_client_id)="([^"]*)"')


class OpenIdLogin(BaseModel):
    """What a provider has given."""

    issuer: str
    client_id: str
    id_token: str
    refresh_token: str | None = None
    expires_at: float


def provider_of(challenge: str) -> tuple[str, str] | None:
    """(issuer, client id) from a registry's header WWW-Authenticate; None: it has no provider.

    >>> provider_of('Bearer realm="shoal", oidc_issuer="https://id.example", oidc_client_id="cli"')
    ('https://id.example', 'cli')
    """
    found = dict(_CHALLENGE.findall(challenge))
    return (found["oidc_issuer"], found["oidc_client_id"]) if len(found) == len(("issuer", "client")) else None


def log_in(
    issuer: str,
    client_id: str,
    *,
    show: Callable[[str, str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> OpenIdLogin:
    """Have somebody log in with a browser.

    Args:
        issuer: URL of the provider.
        client_id: as which client.
        show: is told the address to open, and the code to enter there.
        sleep: waits.
        clock: seconds since 1970.

    Raises:
        RegistryClientError: the provider can't be used, or nobody logged in.
    """
    with _http() as http:
        provider = _discover(http, issuer)
        scopes = provider.get("scopes_supported")
        offline = " offline_access" if isinstance(scopes, list) and "offline_access" in scopes else ""
        asked = _post(
            http,
            _endpoint(provider, "device_authorization_endpoint", issuer),
            {"client_id": client_id, "scope": f"openid profile{offline}"},
        )
        try:
            device_code, code = str(asked["device_code"]), str(asked["user_code"])
            address = str(asked.get("verification_uri_complete") or asked["verification_uri"])
            interval_s = float(asked.get("interval", FIRST_INTERVAL_S))
            deadline = clock() + float(asked["expires_in"])
        except (KeyError, TypeError, ValueError) as exc:
            raise _unusable(issuer, "offers no login by a code") from exc
        show(address, code)
        form = {"client_id": client_id, "grant_type": GRANT, "device_code": device_code}
        token_endpoint = _endpoint(provider, "token_endpoint", issuer)
        while clock() < deadline:
            sleep(interval_s)
            answer = _post(http, token_endpoint, form, errors=True)
            match answer.get("error"):
                case None:
                    return _login(issuer, client_id, answer, clock())
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval_s += SLOWER_S
                case "access_denied":
                    raise RegistryClientError("login_refused", "The login was refused in the browser.")
                case "expired_token":
                    break
                case other:
                    raise _unusable(issuer, f"refuses the login ({str(other)[:80]})")
    raise RegistryClientError("login_expired", "Nobody logged in before the code expired: run the command again.")


def refreshed(login: OpenIdLogin, *, now: float) -> OpenIdLogin:
    """A login with a new token in place of one that has expired.

    Raises:
        RegistryClientError: the provider gives none.
    """
    advice = "log in again with `edge-registry login URL --oidc`"
    if login.refresh_token is None:
        raise RegistryClientError("login_expired", f"The login by {login.issuer} has expired: {advice}.")
    form = {"client_id": login.client_id, "grant_type": "refresh_token", "refresh_token": login.refresh_token}
    with _http() as http:
        answer = _post(
            http, _endpoint(_discover(http, login.issuer), "token_endpoint", login.issuer), form, errors=True
        )
    if "error" in answer:
        raise RegistryClientError("login_expired", f"The login by {login.issuer} has ended: {advice}.")
    fresh = _login(login.issuer, login.client_id, answer, now)
    # a provider need not give a new one each time
    return fresh.model_copy(update={"refresh_token": fresh.refresh_token or login.refresh_token})


def _login(issuer: str, client_id: str, answer: dict[str, Any], now: float) -> OpenIdLogin:
    token = answer.get("id_token")
    if not isinstance(token, str):
        raise _unusable(issuer, "gives no id_token")
    refresh = answer.get("refresh_token")
    return OpenIdLogin(
        issuer=issuer,
        client_id=client_id,
        id_token=token,
        refresh_token=refresh if isinstance(refresh, str) else None,
        expires_at=_expiry(token, now),
    )


def _expiry(token: str, now: float) -> float:
    """When a token expires by its own word: here it only tells when to refresh; the registry verifies it."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return now


def _http() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT_S, follow_redirects=False)


def _discover(http: httpx.Client, issuer: str) -> dict[str, Any]:
    document = _read(http, "GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration", issuer, {})
    if document.get("issuer") != issuer:
        raise _unusable(issuer, "calls itself otherwise")
    return document


def _endpoint(provider: dict[str, Any], name: str, issuer: str) -> str:
    address = provider.get(name)
    parts = urlsplit(address if isinstance(address, str) else "")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise _unusable(issuer, f"names no https address for its {name}")
    return str(address)


def _post(http: httpx.Client, url: str, form: dict[str, str], *, errors: bool = False) -> dict[str, Any]:
    return _read(http, "POST", url, url, form, errors=errors)


def _read(
    http: httpx.Client, method: str, url: str, what: str, form: dict[str, str], *, errors: bool = False
) -> dict[str, Any]:
    try:
        response = http.request(method, url, data=form or None)
        document = response.json()
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise _unusable(what, "does not answer") from exc
    except ValueError as exc:
        raise _unusable(what, "answers, but not as a provider does") from exc
    if not isinstance(document, dict) or (not response.is_success and not (errors and "error" in document)):
        raise _unusable(what, f"answers with status {response.status_code}")
    return document


def _unusable(what: str, problem: str) -> RegistryClientError:
    return RegistryClientError("provider_unavailable", f"The OpenID provider at {what} {problem}.")
