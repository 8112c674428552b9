"""Logging in by an OpenID provider: a real API, and a provider on loopback that signs what it should not."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from server.cli.app import app
from server.errors import SettingsError
from server.settings import load_settings
from tests.server import openid_provider
from tests.server.openid_provider import CLIENT, Provider

Registry = Any


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = openid_provider.start()
    yield made
    openid_provider.stop(made)


@pytest.fixture
def registry(start_registry: Callable[..., Registry], provider: Provider) -> Registry:
    """An API that takes the provider's tokens."""
    roles = {"fleet-admins": "admin", "fleet": "operator", "staff": "viewer"}
    return start_registry(oidc_issuer=provider.issuer, oidc_client_id=CLIENT, oidc_roles=roles)


@pytest.fixture
def ask(registry: Registry) -> Callable[[str], httpx.Response]:
    """Who a token is."""
    return lambda token: httpx.get(
        f"{registry.url}/v1/whoami", headers={"Authorization": f"Bearer {token}"}, timeout=20
    )


def message_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


def test_token_of_the_provider_is_an_operator_by_its_claims(
    ask: Callable[[str], httpx.Response], provider: Provider, registry: Registry
) -> None:
    me = ask(provider.token(roles=["fleet"])).json()
    assert (me["who"], me["role"]) == ("oidc:ada@example", "operator")
    assert ask(provider.token(roles=["fleet-admins", "staff"])).json()["role"] == "admin"
    nothing = ask(provider.token(roles=["strangers"]))
    assert (nothing.status_code, "ask an admin" in message_of(nothing)) == (403, True)
    # tokens of ours go on working
    assert ask(registry.token).json()["role"] == "admin"
    # and what one changes is recorded as theirs
    headers = {"Authorization": f"Bearer {provider.token()}"}
    httpx.post(f"{registry.url}/v1/tokens", json={}, headers=headers, timeout=20)
    (row,) = httpx.get(f"{registry.url}/v1/audit", params={"newest": 1}, headers=registry.login, timeout=20).json()
    assert (row["who"], row["role"], row["change"]) == ("oidc:ada@example", "operator", "token.create")


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://elsewhere.example"},
        {"aud": "another-client"},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"nbf": 4e9},
        {"aud": ["another-client"]},
    ],
    ids=str,
)
def test_token_for_others_or_out_of_time_opens_nothing(
    ask: Callable[[str], httpx.Response], provider: Provider, changes: dict[str, Any]
) -> None:
    assert ask(provider.token()).status_code == 200
    answer = ask(provider.token(**changes))
    assert answer.status_code == 401
    assert "oidc_issuer" in answer.headers["www-authenticate"]


def test_token_whose_signature_is_none_or_made_with_what_is_public_opens_nothing(
    ask: Callable[[str], httpx.Response], provider: Provider
) -> None:
    good = provider.token()
    head, body, signature = good.split(".")

    def part(document: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()

    claims = jwt.decode(good, options={"verify_signature": False})
    public = provider.keys["k1"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    hmac_key = base64.urlsafe_b64encode(pem).rstrip(b"=").decode()
    symmetric = jwt.encode(claims, hmac_key, algorithm="HS256", headers={"kid": "k1"})
    provider.new_key("k2", publish=False)
    forged = [
        f"{part({'alg': 'none', 'kid': 'k1'})}.{body}.",
        f"{part({'alg': 'None', 'kid': 'k1'})}.{body}.{signature}",
        symmetric,
        f"{head}.{part({**claims, 'roles': ['fleet-admins']})}.{signature}",
        f"{head}.{body}.{signature[::-1]}",
        f"{head}.{body}.",
        provider.token("k2", header={"kid": "k1"}),  # another key under a name that is trusted
        provider.token("k2"),
        provider.token("k1", algorithm="RS512"),  # not in the list
        provider.token("k1", header={"kid": "odd"}),
        provider.token("k1", header={"kid": "k1", "crit": ["unheard-of"], "unheard-of": True}),
        jwt.encode(claims, provider.keys["k1"], algorithm="RS256"),  # names no key
        part([1]) + ".x.y",
    ]
    for token in forged:
        assert ask(token).status_code == 401, token
    assert ask(good).status_code == 200


def test_token_by_an_elliptic_key_is_taken(ask: Callable[[str], httpx.Response], provider: Provider) -> None:
    provider.new_key("e1", curve=True)
    assert ask(provider.token("e1", algorithm="ES256")).status_code == 200


def test_keys_are_fetched_once_again_for_a_new_name_and_not_for_each_guess(
    ask: Callable[[str], httpx.Response], provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.operators.provider.AGAIN_S", 0.5)
    for _ in range(3):
        assert ask(provider.token()).status_code == 200
    assert provider.asked.count("/realm/keys") == 1
    # rotated: the new key is signed with before anybody here has seen it
    time.sleep(0.6)
    provider.new_key("k2")
    provider.published.remove("k1")
    assert ask(provider.token("k2")).status_code == 200
    assert ask(provider.token("k1")).status_code == 401, "a key that the provider has withdrawn"
    fetched = provider.asked.count("/realm/keys")
    monkeypatch.setattr("server.operators.provider.AGAIN_S", 600.0)
    provider.new_key("guess", publish=False)
    for number in range(20):
        assert ask(provider.token("guess", header={"kid": f"guess-{number}"})).status_code == 401
    assert provider.asked.count("/realm/keys") == fetched


def test_provider_that_is_away_locks_out_nobody_it_has_told_of(
    ask: Callable[[str], httpx.Response], provider: Provider, registry: Registry
) -> None:
    provider.status = 500
    away = ask(provider.token())
    assert (away.status_code, away.json()["error"]["code"]) == (503, "provider_unavailable")
    assert ask(registry.token).status_code == 200


def test_provider_that_knows_us_and_then_goes_away_is_not_needed(
    ask: Callable[[str], httpx.Response], provider: Provider
) -> None:
    token = provider.token()
    assert ask(token).status_code == 200
    provider.status = 500
    assert ask(token).status_code == 200


def test_provider_that_calls_itself_otherwise_is_not_believed(
    ask: Callable[[str], httpx.Response], provider: Provider
) -> None:
    provider.issuer_says = "https://elsewhere.example"
    assert ask(provider.token()).status_code == 503


def test_login_by_a_browser_is_kept_and_refreshed(
    registry: Registry, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.client.openid.SLOWER_S", 0.01)
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "SHOAL_DATA_DIR": str(tmp_path / "none"), "SHOAL_REGISTRY": None}
    provider.answers = [{"error": "authorization_pending"}, {"error": "slow_down"}]
    provider.claims = {"exp": time.time() + 2}

    def run(*arguments: str) -> Any:  # noqa: ANN401
        return CliRunner().invoke(app, list(arguments), env=environment)

    done = run("login", registry.url, "--oidc")
    assert done.exit_code == 0, done.output
    assert "enter the code ABCD-EFGH" in done.stderr
    assert "as oidc:ada@example, operator" in done.stdout
    (kept,) = (tmp_path / "shoal").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    provider.claims = {}
    who = run("whoami", "--registry", registry.url)
    assert "oidc:ada@example" in who.stdout
    assert provider.refresh_tokens == {"refresh-1"}, "it would have expired on the way, so it was refreshed"
    assert run("whoami", "--registry", registry.url).exit_code == 0
    assert provider.refresh_tokens == {"refresh-1"}


@pytest.mark.parametrize(
    ("error", "words"), [("access_denied", "was refused in the browser"), ("expired_token", "Nobody logged in")]
)
def test_login_that_nobody_ends_is_one_sentence_and_keeps_nothing(
    registry: Registry, provider: Provider, tmp_path: Path, error: str, words: str
) -> None:
    provider.answers = [{"error": error}]
    result = CliRunner().invoke(app, ["login", registry.url, "--oidc"], env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert (result.exit_code, words in result.stderr) == (1, True)
    assert not (tmp_path / "shoal").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"oidc_issuer": "http://login.example"}, "https://"),
        ({"oidc_issuer": "https://login.example"}, "oidc_issuer needs oidc_client_id and oidc_roles"),
        ({"oidc_issuer": "login.example"}, "not an address"),
        ({"oidc_algorithms": "HS256"}, "possible are"),
        ({"oidc_algorithms": "none"}, "possible are"),
        ({"oidc_algorithms": ""}, "possible are"),
        ({"oidc_client_id": 'a"b'}, "printable letters"),
        ({"oidc_roles": {"staff": "root"}}, "oidc_roles"),
    ],
)
def test_settings_that_would_let_others_in_are_refused(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_settings(tmp_path, overrides=values)
