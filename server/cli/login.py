"""`edge-registry login`, `logout` and `whoami`."""

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import fail, say, show_json, show_pairs, text_of_time
from server.cli.session import connected, refused_by_registry

if TYPE_CHECKING:
    from server.client import RegistryClient
    from server.client.credentials import Login

UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Of the registry, for example http://host:8080.")]


def login(
    url: UrlArgument,
    *,
    oidc: Annotated[bool, typer.Option("--oidc", help="By the registry's OpenID provider, with a browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Log in to a registry: give the token when asked, or on stdin. It is kept where only you can read it."""
    with refused_by_registry():
        from server.client import RegistryClient  # noqa: PLC0415  httpx: `--help` must not wait for it
        from server.client.credentials import credentials_path, store_login  # noqa: PLC0415

        with RegistryClient(url) as stranger:
            url = stranger.url
            found = _by_provider(stranger) if oidc else _by_token()
        token = found.token or (found.openid.id_token if found.openid else None)
        with RegistryClient(url, token=token) as client:
            me = client.whoami()  # a token that opens nothing is not kept
        store_login(url, found)
        path = credentials_path()
    if as_json:
        show_json({"url": url, **me.model_dump(mode="json")})
        return
    say(f"logged in to {url} as {me.who}, {me.role}, until {text_of_time(me.expires_at)}")
    say(f"kept in {path}")


def logout(url: Annotated[str | None, typer.Argument(metavar="[URL]")] = None, *, as_json: JsonOption = False) -> None:
    """Forget the token of a registry here; it stays valid: `edge-registry operator revoke` ends it."""
    with refused_by_registry():
        from server.client import RegistryClient  # noqa: PLC0415
        from server.client.credentials import forget_login, read_logins  # noqa: PLC0415

        meant = url or read_logins().last
        if meant is None:
            fail("You are logged in nowhere.")
        with RegistryClient(meant) as client:
            meant = client.url
        if not forget_login(meant):
            fail(f"You are not logged in to {meant}.")
    if as_json:
        show_json({"url": meant, "logged_in": False})
    else:
        say(f"logged out of {meant}")


def whoami(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Who you are for a registry, and what you may do."""
    with connected(registry) as client:
        me, url = client.whoami(), client.url
    if as_json:
        show_json({"url": url, **me.model_dump(mode="json")})
    else:
        show_pairs([("registry", url), ("who", me.who), ("role", me.role), ("until", text_of_time(me.expires_at))])


def _by_token() -> "Login":
    from server.client.credentials import Login  # noqa: PLC0415

    token = getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline(4096)
    if not token.strip():
        fail("No token came: type it when asked, or give it on stdin.", exit_code=2)
    return Login(token=token.strip())


def _by_provider(stranger: "RegistryClient") -> "Login":
    from server.client import RegistryClientError  # noqa: PLC0415
    from server.client.credentials import Login  # noqa: PLC0415
    from server.client.openid import log_in, provider_of  # noqa: PLC0415

    challenge = ""
    try:
        stranger.whoami()
    except RegistryClientError as exc:
        if exc.status is None:
            raise
        challenge = exc.challenge
    found = provider_of(challenge)
    if found is None:
        fail(f"The registry at {stranger.url} has no OpenID provider: log in with a token, without --oidc.")

    def show(address: str, code: str) -> None:
        sys.stderr.write(f"open {address} in a browser and enter the code {code}\n")

    return Login(openid=log_in(*found, show=show))
