"""The app: routes, errors, limits. Built by a function, from ports that the caller opened."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI

from server.api.errors import install_error_answers
from server.api.health import HealthCheck
from server.api.limits import BodyLimit
from server.api.ports import Ports
from server.api.routes import (
    device,
    enrolment,
    fleet,
    inquiries,
    models,
    profiles,
    reports,
    retention,
    retirement,
    rollouts,
    telemetry,
)
from server.api.slots import UploadSlots
from server.schemas.common import ErrorDocument, Health

DESCRIPTION: Final = (
    "Push a model once; a variant for each kind of device is built, proved, delivered in waves, and measured where it "
    "runs. Every answer that is not a success is an ErrorDocument."
)
_ROUTES: Final = (
    *(profiles, models, reports, fleet, enrolment, inquiries, device, rollouts, telemetry, retention),
    retirement,
)
_STATUSES: Final = {
    401: "Who asks did not prove who they are",
    404: "No such thing",
    409: "It exists already, and differently; or it can't be done now",
    413: "Too many bytes",
    422: "What was sent does not fit",
    429: "More is asked for than is allowed in the time: wait",
    502: "What a device has answered can't be used",
    503: "The database, S3, the broker or the disk is down or full, or too many push at once: try again",
}


def create_app(ports: Ports) -> FastAPI:
    """The API over these ports; closing them is the caller's."""
    health = HealthCheck(ports)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        health.close()

    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorDocument, "description": text} for status, text in _STATUSES.items()
    }
    app = FastAPI(
        title="Shoal registry",
        description=DESCRIPTION,
        version="1",
        responses=errors,
        lifespan=lifespan,
    )
    app.state.ports = ports
    app.state.upload_slots = UploadSlots()
    install_error_answers(app)
    app.add_middleware(BodyLimit)
    for module in _ROUTES:
        app.include_router(module.router)

    @app.get("/v1/health", operation_id="get_health", tags=["health"])
    def get_health() -> Health:
        """Whether the registry and what it stands on answer; `status` is `ok` or `degraded`."""
        return health.ask()

    return app
