"""From the header `Authorization: Bearer ...` to who asks: a token of ours, or one of the OpenID provider."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import jwt

from server.errors import UnauthorizedError
from server.operators.accounts import TOKEN_PREFIX, KnownOperator, find_by_token
from server.operators.claims import name_of, role_of
from server.operators.provider import ProviderKeys
from server.schemas.operators import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.database.connect import Database
    from server.settings import RegistrySettings

MAX_LENGTH: Final = 16 * 1024
LEEWAY_S: Final = 30.0  # for clocks that differ
REALM: Final = 'Bearer realm="shoal"'
ADVICE: Final = "log in with `edge-registry login URL`"


class Logins:
    """All ways in. `authenticate` may wait for the database, and for the provider's keys."""

    def __init__(self, database: Database, settings: RegistrySettings, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._provider = (
            ProviderKeys(settings.oidc_issuer, clock=time.monotonic) if settings.oidc_issuer is not None else None
        )
        self.challenge = REALM
        """Says how to log in; the commands read where from it, since nothing else answers a stranger."""
        if settings.oidc_issuer is not None:
            self.challenge += f', oidc_issuer="{settings.oidc_issuer}", oidc_client_id="{settings.oidc_client_id}"'

    def authenticate(self, header: str | None) -> KnownOperator:
        """Who asks.

        Raises:
            ForbiddenError: the provider knows them, and they have no role here.
            ProviderUnavailableError: the provider's keys can't be had.
            UnauthorizedError: nobody, or not any more.
        """
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > MAX_LENGTH or not token.isascii():
            raise self._stranger(f"This needs a login: {ADVICE}.")
        if token.startswith(TOKEN_PREFIX):
            return self._by_token(token)
        if self._provider is not None:
            return self._by_provider(token, self._provider)
        raise self._stranger(f"This is no token of this registry: {ADVICE}.")

    def _by_token(self, token: str) -> KnownOperator:
        with self._database.read() as connection:
            found = find_by_token(connection, token)
        if found is None:
            raise self._stranger(f"This token is unknown, or was replaced by a newer one: {ADVICE}.")
        if found.revoked:
            raise self._stranger(f"The token of {found.name} was revoked: ask an admin for a new one.")
        if not found.is_live(self._clock()):
            raise self._stranger(f"The token of {found.name} has expired: ask an admin for a new one.")
        return found

    def _by_provider(self, token: str, provider: ProviderKeys) -> KnownOperator:
        claims = self._claims(token, provider)
        roles = {value: Role(role) for value, role in self._settings.oidc_roles.items()}
        name = name_of(claims, self._settings.oidc_name_claim)
        role = role_of(claims, self._settings.oidc_roles_claim, roles)
        return KnownOperator(name, role, float(claims["exp"]), revoked=False)

    def _claims(self, token: str, provider: ProviderKeys) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            algorithms = self._settings.oidc_algorithms.split(",")
            # asked before a key is fetched, so that `none` and the symmetric ones never get near one
            if header.get("alg") not in algorithms or not isinstance(header.get("kid"), str):
                raise self._stranger("The token is signed in a way that this registry does not take.")
            return jwt.decode(
                token,
                provider.key(header["kid"]),
                algorithms=algorithms,
                audience=self._settings.oidc_audience or self._settings.oidc_client_id,
                issuer=self._settings.oidc_issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError as exc:
            raise self._stranger(f"The token of the OpenID provider has expired: {ADVICE} --oidc.") from exc
        except jwt.PyJWTError as exc:
            raise self._stranger(f"The token of the OpenID provider is not valid here: {ADVICE} --oidc.") from exc

    def _stranger(self, message: str) -> UnauthorizedError:
        return UnauthorizedError(message, challenge=self.challenge)
