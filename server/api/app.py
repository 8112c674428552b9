"""The app: routes, errors, limits. Built by a function, from ports that the caller opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp

from server.api.admission import admitted
from server.api.errors import install_error_answers
from server.api.gate import Gate
from server.api.health import HealthCheck
from server.api.limits import BodyLimit
from server.api.operations import Operations, with_roles
from server.api.ports import Ports
from server.api.routes import (
    audit,
    device,
    fleet,
    inquiries,
    models,
    operators,
    profiles,
    reports,
    retention,
    retirement,
    rollouts,
    telemetry,
    webhook,
)
from server.api.slots import UploadSlots
from server.operators.logins import Logins
from server.schemas.common import ErrorDocument, Health

DESCRIPTION: Final = (
    "Push a model once; a variant for each kind of device is built, proved, delivered in waves, and measured where it "
    "runs. Every answer that is not a success is an ErrorDocument."
)
_STATUSES: Final = {
    401: "Who asks did not prove who they are",
    403: "Who asks may not do this",
    404: "No such thing",
    409: "It exists already, and differently; or it can't be done now",
    413: "Too many bytes",
    422: "What was sent does not fit",
    429: "Too many requests, or too many attempts to log in: Retry-After says how many seconds to wait",
    502: "What a device has answered can't be used",
    503: "The database, S3, the broker or the disk is down or full, or too many push at once: try again",
}


def create_app(ports: Ports) -> ASGIApp:
    """The API over these ports, behind its gate; closing them is the caller's."""
    app = _routes(ports)
    logins = Logins(ports.catalogue, ports.settings, ports.clock)
    app.state.operations = Operations(app.openapi())
    return Gate(app, ports, logins, app.state.operations)


def _routes(ports: Ports) -> FastAPI:
    health = HealthCheck(ports)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        health.close()

    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorDocument, "description": text} for status, text in _STATUSES.items()
    }
    # its pages and its document answer a stranger: the document has a route of ours instead
    app = FastAPI(
        title="Shoal registry",
        description=DESCRIPTION,
        version="1",
        responses=errors,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(admitted)],
    )
    app.state.ports = ports
    app.state.upload_slots = UploadSlots()
    install_error_answers(app)
    app.add_middleware(BodyLimit)
    nouns = (profiles, models, reports, fleet, inquiries, device, rollouts, telemetry, retention, retirement, webhook)
    for module in (*nouns, operators, audit):
        app.include_router(module.router)

    @app.get("/v1/health", operation_id="get_health", tags=["health"])
    def get_health() -> Health:
        """Whether the registry and what it stands on answer; `status` is `ok` or `degraded`."""
        return health.ask()

    @app.get("/openapi.json", operation_id="get_openapi", tags=["health"])
    def get_openapi_document() -> dict[str, Any]:
        """This document: each operation with the role that it wants (`x-role`)."""
        return app.openapi()

    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    document: dict[str, Any] = {}

    def described() -> dict[str, Any]:
        if not document:
            found = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
            )
            document.update(with_roles(found))
        return document

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI's own documents say
