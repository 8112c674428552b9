"""What `edge-registry login` keeps: a token for each registry, in a file that only its owner may read.

SHOAL_TOKEN in the environment stands before it, for programs. No token is ever an argument of a command: those can be
read by everybody on the machine.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from server.client.errors import RegistryClientError
from server.client.openid import REFRESH_EARLY_S, OpenIdLogin, refreshed
from server.durable import replace_file

TOKEN_VARIABLE: Final = "SHOAL_TOKEN"  # noqa: S105  a variable's name
FILE_NAME: Final = "registries.json"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Login(BaseModel):
    """How to log in to one registry: by a token of its own, or of its OpenID provider."""

    token: str | None = None
    openid: OpenIdLogin | None = None


class Logins(BaseModel):
    """What the file holds, by URL; `last`: the one that was logged in to last."""

    version: int = 1
    last: str | None = None
    registries: dict[str, Login] = {}


def credentials_path() -> Path:
    """Where the file is: in the user's XDG configuration folder."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "shoal" / FILE_NAME


def read_logins() -> Logins:
    """What is kept; nothing, if there is no file.

    Raises:
        RegistryClientError: the file can be read by others, is damaged, or can't be read.
    """
    path = credentials_path()
    try:
        if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
            raise RegistryClientError(
                "bad_credentials", f"{path} holds tokens and others may read it: chmod 600 {path}."
            )
        return Logins.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Logins()
    except OSError as exc:
        raise RegistryClientError("bad_credentials", f"{path} can't be read: {exc.strerror}.") from exc
    except ValidationError as exc:
        raise RegistryClientError("bad_credentials", f"{path} is damaged: remove it, and log in again.") from exc


def store_login(url: str, login: Login) -> None:
    """Keep how to log in to a registry.

    Raises:
        RegistryClientError: the file can't be read or written.
    """
    logins = read_logins()
    _write(logins.model_copy(update={"last": url, "registries": {**logins.registries, url: login}}))


def forget_login(url: str) -> bool:
    """Forget it; whether there was anything to forget."""
    logins = read_logins()
    if url not in logins.registries:
        return False
    rest = {known: login for known, login in logins.registries.items() if known != url}
    last = next(reversed(rest), None) if logins.last == url else logins.last
    _write(logins.model_copy(update={"last": last, "registries": rest}))
    return True


def stored_login(url: str) -> str | None:
    """The token for a registry: of the environment, else of the last login to it; None: there is none.

    A token of an OpenID provider that has expired is refreshed.

    Raises:
        RegistryClientError: the file is not usable, or the provider gives no new token.
    """
    if given := os.environ.get(TOKEN_VARIABLE):
        return given
    login = read_logins().registries.get(url)
    if login is None or login.openid is None:
        return None if login is None else login.token
    if login.openid.expires_at - time.time() > REFRESH_EARLY_S:
        return login.openid.id_token
    fresh = refreshed(login.openid, now=time.time())
    store_login(url, Login(openid=fresh))
    return fresh.id_token


def _write(logins: Logins) -> None:
    path = credentials_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(path, logins.model_dump_json(indent=2, exclude_none=True).encode())
    except OSError as exc:
        raise RegistryClientError("bad_credentials", f"{path} can't be written: {exc.strerror}.") from exc
