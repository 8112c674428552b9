"""The Open Inference Protocol v2 over all models of this device: what names one is forwarded, the rest is joined."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.front.upstream import OK, Upstream
from edge_agent.runner.http import (
    JSON,
    JSON_LENGTH,
    Answer,
    HeldBodies,
    NotFoundError,
    UnavailableError,
    error_answer,
    json_answer,
    parse_model_path,
    read_body,
    require_method,
    send_answer,
    send_refusal,
    server_metadata,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge_agent.runner.http import ModelPath, Receive, Scope, Send
    from edge_agent.runner.listener import Gate

MAX_BODY_BYTES = 64 << 20  # held here until the runner has answered; each runner has a limit of its own below it
NOW_S = 1.0  # how long a question about the present may take
FORWARDED = (b"content-type", JSON_LENGTH)
RETURNED = (JSON_LENGTH, b"allow", b"retry-after")


class FrontApp:
    """Forwards and joins. Called as `app(gate, scope, receive, send)`."""

    def __init__(self) -> None:
        self._upstreams: dict[str, Upstream] = {}
        self._held = HeldBodies(MAX_BODY_BYTES)

    def route(self, sockets: Mapping[str, Path]) -> None:
        """Take the whole set of models; connections of runners that may be leaving are let go."""
        for model, upstream in list(self._upstreams.items()):
            if sockets.get(model) == upstream.path:
                upstream.let_go()
            else:
                upstream.remove()
                del self._upstreams[model]
        for model, path in sockets.items():
            if model not in self._upstreams:
                self._upstreams[model] = Upstream(model, path)

    async def __call__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            answer = await self._answer(scope, receive)
        except EdgeAgentError as exc:
            answer = error_answer(exc)
        if answer is None:
            return  # the client has gone
        if answer.close:
            await send_refusal(receive, send, answer)
        else:
            await send_answer(send, answer, close=gate.closing)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | None:
        path = scope["path"].rstrip("/")
        model_path = None if path == "/v2/models/stats" else parse_model_path(path)
        if model_path is not None:
            return await self._forward(model_path, scope, receive)
        if path == "/v2/repository/index":
            require_method(scope, "GET", "POST")
            return json_answer(await self._index())
        if path not in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"):
            raise NotFoundError(f"there is nothing at {shown(path)}; the protocol begins at /v2")
        require_method(scope, "GET")
        match path:
            case "/v2":
                return json_answer(server_metadata(__version__))
            case "/v2/health/live":
                return json_answer({"live": True})
            case "/v2/health/ready":
                ready = all(document is not None for document in (await self._join("/v2/health/ready")).values())
                return json_answer({"ready": ready}, 200 if ready else 503)
            case _:
                documents = (await self._join("/v2/models/stats")).values()
                stats = [one for document in documents if document is not None for one in document["model_stats"]]
                return json_answer({"model_stats": stats})

    async def _forward(self, path: ModelPath, scope: Scope, receive: Receive) -> Answer | None:
        upstream = self._upstreams.get(path.model)
        if upstream is None:
            raise NotFoundError(f"there is no model {shown(path.model)} here, but {sorted(self._upstreams)}")
        body = await read_body(scope["headers"], receive, self._held, MAX_BODY_BYTES)
        if body is None:
            return None
        try:
            if path.verb == "ready":  # the question is about now
                response = await upstream.ask(_request(scope, body), timeout_s=NOW_S, patience_s=NOW_S)
            else:
                response = await upstream.ask(_request(scope, body))
        finally:
            self._held.release(len(body))
        headers = tuple(header for header in response.headers if header[0] in RETURNED)
        content_type = next((value for name, value in response.headers if name == b"content-type"), JSON)
        return Answer(response.status, response.body, content_type, headers)

    async def _join(self, path: str) -> dict[str, Any]:
        """What each model's runner answers to a GET; None for those that do not answer."""
        request = [b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % path.encode()]
        upstreams = list(self._upstreams.values())

        async def ask(upstream: Upstream) -> Any:  # noqa: ANN401  whatever JSON can say
            try:
                response = await upstream.ask(request, timeout_s=NOW_S, patience_s=NOW_S)
            except UnavailableError:
                return None
            return orjson.loads(response.body) if response.status == OK else None

        answers = await asyncio.gather(*map(ask, upstreams))
        return {upstream.model: answer for upstream, answer in zip(upstreams, answers, strict=True)}

    async def _index(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for model, entries in (await self._join("/v2/repository/index")).items():
            missing = {"name": model, "version": "", "state": "UNAVAILABLE", "reason": "its runner does not answer now"}
            found += entries if entries is not None else [missing]
        return found


def _request(scope: Scope, body: bytes) -> list[bytes]:
    """The request as the runner gets it; the parser has checked that no value holds a line break."""
    lines = [b"%b %b HTTP/1.1\r\nhost: localhost" % (scope["method"].encode(), scope["raw_path"])]
    lines += [b"%b: %b" % (name, value) for name, value in scope["headers"] if name in FORWARDED]
    lines.append(b"content-length: %d\r\n\r\n" % len(body))
    return [b"\r\n".join(lines), body]
