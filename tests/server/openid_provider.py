"""An OpenID provider on loopback: discovery, keys, the device grant, refreshing. It signs whatever a test asks for."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

CLIENT = "shoal-cli"


@dataclass
class Provider:
    """What it knows, to be changed by a test while it runs."""

    server: ThreadingHTTPServer
    keys: dict[str, Any] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)  # of the token endpoint, in order; then a success
    claims: dict[str, Any] = field(default_factory=dict)  # beyond the ordinary ones
    refresh_tokens: set[str] = field(default_factory=set)
    issuer_says: str | None = None
    status: int = 200

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/realm"

    def new_key(self, name: str, *, curve: bool = False, publish: bool = True) -> None:
        """Another key; `publish`: the provider shows it."""
        self.keys[name] = (
            ec.generate_private_key(ec.SECP256R1())
            if curve
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        if publish:
            self.published.append(name)

    def token(self, key: str = "k1", *, algorithm: str = "RS256", header: Any = None, **changes: object) -> str:  # noqa: ANN401
        """A token; a claim that is None is left out."""
        now = time.time()
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "ada@example",
            "iat": now,
            "exp": now + 300,
            "roles": ["fleet"],
            **self.claims,
            **changes,
        }
        told = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(told, self.keys[key], algorithm=algorithm, headers=header or {"kid": key})

    def jwks(self) -> dict[str, Any]:
        """What it shows of its keys, and what no reader should stumble over."""
        found = []
        for name in self.published:
            public = self.keys[name].public_key()
            if isinstance(public, rsa.RSAPublicKey):
                document = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
            else:
                document = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
            found.append({**document, "kid": name, "use": "sig"})
        return {"keys": [*found, {"kty": "unheard-of", "kid": "odd"}, "no key at all"]}

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, Any]:
        self.asked.append(path)
        if self.status != 200:
            return self.status, {}
        match path:
            case "/realm/.well-known/openid-configuration":
                base = f"{self.issuer}/"
                return 200, {
                    "issuer": self.issuer_says or self.issuer,
                    "jwks_uri": f"{base}keys",
                    "device_authorization_endpoint": f"{base}device",
                    "token_endpoint": f"{base}token",
                    "scopes_supported": ["openid", "offline_access"],
                }
            case "/realm/keys":
                return 200, self.jwks()
            case "/realm/device":
                assert form == {"client_id": CLIENT, "scope": "openid profile offline_access"}
                return 200, {
                    "device_code": "device-code",
                    "user_code": "ABCD-EFGH",
                    "verification_uri": f"{self.issuer}/login",
                    "expires_in": 60,
                    "interval": 0.01,
                }
            case "/realm/token":
                return self._grant(form)
        return 404, {}

    def _grant(self, form: dict[str, str]) -> tuple[int, Any]:
        assert form["client_id"] == CLIENT
        if self.answers:
            return 400, self.answers.pop(0)
        if form["grant_type"] == "refresh_token" and form["refresh_token"] not in self.refresh_tokens:
            return 400, {"error": "invalid_grant"}
        assert form["grant_type"] == "refresh_token" or form["device_code"] == "device-code"
        refresh = f"refresh-{len(self.refresh_tokens)}"
        self.refresh_tokens = {refresh}
        return 200, {"id_token": self.token(), "refresh_token": refresh, "token_type": "Bearer", "access_token": "x"}


def start() -> Provider:
    """A provider with one key, until `stop`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._answer({name: values[0] for name, values in parse_qs(body).items()})

        def _answer(self, form: dict[str, str]) -> None:
            status, document = provider.answer(self.path, form)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    provider = Provider(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
    provider.new_key("k1")
    threading.Thread(target=provider.server.serve_forever, daemon=True).start()
    return provider


def stop(provider: Provider) -> None:
    """End it."""
    provider.server.shutdown()
    provider.server.server_close()
