"""Who may pass, before a byte of the body is read: how often, who, with which role. What was refused is recorded."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.concurrency import run_in_threadpool

from server.api.draining import Body
from server.api.errors import REFUSED, refusal
from server.api.rates import Rate, whole_seconds
from server.audit.trail import Asker, Change, append
from server.errors import ForbiddenError, RegistryError, SlowDownError, UnauthorizedError
from server.operators.roles import ROLES, Beside, suffices
from server.schemas.audit import Outcome
from server.schemas.operators import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from server.api.operations import Operations
    from server.api.ports import Ports
    from server.operators.logins import Logins

logger = logging.getLogger(__name__)

ASKER: Final = "asker"  # where the state of a request holds who asks
NOBODY: Final = "nobody"
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
BURST_S: Final = 10.0  # a bucket holds what comes in so long
# Of what is refused to one asker so much is recorded: a log that is never cut must not be filled by anyone who likes.
RECORDED_PER_S: Final = 1.0
RECORDED_BURST: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Request:
    """What the gate knows of a request."""

    request_id: str
    address: str
    method: str
    path: str
    operation: str

    def asker(self, who: str = NOBODY, role: str = "", expires_at: float = 0.0) -> Asker:
        """Who asks by it."""
        return Asker(who, role, self.address, self.request_id, self.operation, expires_at)


class Gate:
    """ASGI: around everything else."""

    def __init__(self, app: ASGIApp, ports: Ports, logins: Logins, operations: Operations) -> None:
        settings = ports.settings
        self._app = app
        self._ports = ports
        self._logins = logins
        self._operations = operations
        self._by_address = _rate(settings.requests_per_s_address)
        self._by_identity = _rate(settings.requests_per_s_identity)
        self._failed = Rate(per_s=settings.failed_logins_per_minute / 60, burst=settings.failed_logins_per_minute)
        self._recorded = Rate(per_s=RECORDED_PER_S, burst=RECORDED_BURST)
        self._unrecorded: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = self._read(scope)
        state = scope.setdefault("state", {})
        state[ASKER] = request.asker()
        body = Body(receive)
        answer = _Answer(send, request.request_id, lambda status: self._record(request, state, status))
        try:
            state[ASKER] = asker = await self._admit(request, state, _authorization(scope))
        except RegistryError as exc:
            await self._refuse(exc, request, scope, body, answer)
            return
        if asker.who == NOBODY:  # joins, or shows a key that the route looks at
            answer.instead = lambda: self._slow_down(request)
        await self._app(scope, body.receive, answer.send)

    def _read(self, scope: Scope) -> _Request:
        client = scope.get("client")
        return _Request(
            request_id=secrets.token_hex(8),
            address=str(client[0]) if client else "",
            method=scope["method"],
            path=scope["path"],
            operation=self._operations.find(scope["method"], scope["path"]) or "",
        )

    async def _admit(self, request: _Request, state: dict[str, Any], authorization: str | None) -> Asker:
        """Who asks; nobody where nobody needs to be known. The state has them even when they are refused.

        Raises:
            RegistryError: they may not pass.
        """
        _take(self._by_address, request.address, "this address")
        wanted = ROLES.get(request.operation)
        if isinstance(wanted, Beside):
            return request.asker()
        found = await run_in_threadpool(self._logins.authenticate, authorization)
        state[ASKER] = asker = request.asker(found.name, found.role.value, found.expires_at)
        _take(self._by_identity, found.name, found.name)
        if request.operation and (wanted is None or not suffices(found.role, wanted)):
            raise ForbiddenError(
                f"{found.name} is {_article(found.role)}, and {request.operation} wants "
                f"{'a role that nobody has' if wanted is None else _article(wanted)}: ask an admin of this registry."
            )
        return asker

    def _slow_down(self, request: _Request) -> SlowDownError | None:
        """In place of one more answer that says who is not known."""
        wait_s = self._failed.wait_s(request.address, now=time.monotonic())
        if not wait_s:
            return None
        return SlowDownError(
            "Too many attempts from this address named nobody who is known here: wait, then try the right token.",
            retry_after_s=whole_seconds(wait_s),
        )

    async def _refuse(self, error: RegistryError, request: _Request, scope: Scope, body: Body, answer: _Answer) -> None:
        if isinstance(error, UnauthorizedError):
            error = self._slow_down(request) or error
        scope["state"][REFUSED] = error.code
        response = refusal(error)
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
            response.headers["Connection"] = "close"  # what is sent is read only within reason
        await response(scope, body.receive, body.answering(answer.send))

    async def _record(self, request: _Request, state: dict[str, Any], status: int) -> None:
        """What was tried and refused, before the answer says so; what was done has recorded itself."""
        asker: Asker = state[ASKER]
        forbidden = status == HTTPStatus.FORBIDDEN
        if status < HTTPStatus.BAD_REQUEST or status == HTTPStatus.TOO_MANY_REQUESTS:
            return
        if request.method in READING and not forbidden:
            return
        name = asker.who if asker.who != NOBODY else f"{NOBODY} {request.address}"
        if self._recorded.wait_s(name, now=time.monotonic()) or (
            asker.who == NOBODY and self._recorded.wait_s(NOBODY, now=time.monotonic())
        ):
            self._unrecorded[NOBODY] = self._unrecorded.get(NOBODY, 0) + 1
            return
        after: dict[str, Any] = {"status": status, "code": state.get(REFUSED, "")}
        if more := self._unrecorded.pop(NOBODY, 0):
            after["unrecorded_before"] = more
        try:
            await run_in_threadpool(self._append, request, asker, after)
        except RegistryError as exc:  # the database is away: the answer stands all the same
            logger.warning("A refusal of %s to %s was not recorded: %s", request.operation, asker.who, exc)

    def _append(self, request: _Request, asker: Asker, after: dict[str, Any]) -> None:
        subject = "".join(letter if letter.isprintable() else "?" for letter in request.path)
        now, change = self._ports.clock(), Change("", f"{request.method} {subject}", after=after)
        with self._ports.catalogue.write() as connection:
            append(connection, asker, change, outcome=Outcome.REFUSED, now=now)


class _Answer:
    """Passes an answer on: tells its status first, gives it the request's id, and may put another in its place."""

    def __init__(self, send: Send, request_id: str, heard: Callable[[int], Awaitable[None]]) -> None:
        self._send = send
        self._heard = heard
        self._header = (b"x-request-id", request_id.encode())
        self._replaced = False
        self.instead: Callable[[], RegistryError | None] | None = None
        """Asked when the answer is 401: an error to answer instead, or None."""

    async def send(self, message: Message) -> None:
        """ASGI."""
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            error = self.instead() if self.instead and message["status"] == HTTPStatus.UNAUTHORIZED else None
            if error is not None:
                await self._replace(error)
                return
            await self._heard(message["status"])
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        await self._send(message)

    async def _replace(self, error: RegistryError) -> None:
        self._replaced = True
        response = refusal(error)
        headers = [*response.raw_headers, self._header]
        await self._send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await self._send({"type": "http.response.body", "body": response.body})


def _rate(per_s: float) -> Rate:
    return Rate(per_s=per_s, burst=max(1.0, per_s * BURST_S))


def _take(rate: Rate, name: str, who: str) -> None:
    if wait_s := rate.wait_s(name, now=time.monotonic()):
        seconds = whole_seconds(wait_s)
        raise SlowDownError(
            f"More requests came from {who} than this registry answers: wait {seconds} s.", retry_after_s=seconds
        )


def _authorization(scope: Scope) -> str | None:
    """The header, if there is exactly one."""
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _article(role: Role) -> str:
    return f"{'a' if role is Role.VIEWER else 'an'} {role}"
