"""Every answer that is not a success is an ErrorDocument: a code for programs and one sentence for people."""

import logging
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from server.errors import RegistryError, SlowDownError, UnauthorizedError
from server.schemas.common import ErrorBody, ErrorDocument
from server.schemas.sentence import NAME_RULE, sentence

logger = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 5
REFUSED: Final = "refused"  # where the state of a request holds the code of its refusal

# Codes that are not here are the registry's own trouble: 500.
STATUS_OF: Final[dict[str, HTTPStatus]] = {
    "invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "bad_selector": HTTPStatus.UNPROCESSABLE_ENTITY,
    "bad_waves": HTTPStatus.UNPROCESSABLE_ENTITY,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "slow_down": HTTPStatus.TOO_MANY_REQUESTS,
    "provider_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "not_found": HTTPStatus.NOT_FOUND,
    "object_not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "storage_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "storage_refused": HTTPStatus.SERVICE_UNAVAILABLE,
    "database_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "broker_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "bad_answer": HTTPStatus.BAD_GATEWAY,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
}


def answer(status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """An ErrorDocument as a response."""
    document = ErrorDocument(error=ErrorBody(code=code, message=message))
    return JSONResponse(document.model_dump(), status_code=status, headers=headers)


def refusal(error: RegistryError) -> JSONResponse:
    """The response for an error of ours."""
    status = STATUS_OF.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.retryable else {}
    if isinstance(error, SlowDownError):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = error.challenge
    return answer(status, error.code, str(error), headers=headers)


def install_error_answers(app: FastAPI) -> None:
    """Let the app answer every kind of failure with a document."""
    app.add_exception_handler(RegistryError, _registry_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


async def _registry_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RegistryError):
        raise error
    setattr(request.state, REFUSED, error.code)
    if error.code == RegistryError.code:  # a fault of ours, whatever its sentence says
        return await _unexpected(request, error)
    if error.retryable:
        logger.warning("%s", error)
    return refusal(error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    setattr(request.state, REFUSED, "invalid")
    return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", sentence(error.errors()))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: no such route, a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    where = f"{request.method} {request.url.path[:120]}"
    messages = {
        HTTPStatus.NOT_FOUND: f"There is no address {where}; a name in an address has {NAME_RULE}.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{where} is not possible here; /openapi.json lists what is.",
    }
    codes = {HTTPStatus.NOT_FOUND: "no_such_address", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.BAD_REQUEST:  # what the framework says of bytes that are no text
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        messages[status] = "The body can't be read: it should be JSON in UTF-8."
    setattr(request.state, REFUSED, codes.get(status, "invalid"))
    headers = dict(error.headers) if error.headers else None
    if status is HTTPStatus.METHOD_NOT_ALLOWED:  # the router looks no further than the first route of this path
        headers = {"Allow": ", ".join(request.app.state.operations.methods(request.url.path))}
    return answer(status, codes.get(status, "invalid"), messages.get(status, str(error.detail)), headers=headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the log has the details, the answer has none."""
    logger.error("%s %s failed.", request.method, request.url.path, exc_info=error)
    message = "The registry made a mistake; its log (api.log) says more. Nothing was changed by this request."
    return answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)
