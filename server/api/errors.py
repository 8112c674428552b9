"""Every answer that is not a success is an ErrorDocument: a code for programs and one sentence for people."""

import logging
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from server.errors import RegistryError
from server.schemas.common import ErrorBody, ErrorDocument
from server.schemas.sentence import NAME_RULE, sentence

logger = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 5

# Codes that are not here are the registry's own trouble: 500.
STATUS_OF: Final[dict[str, HTTPStatus]] = {
    "invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "bad_certificate_request": HTTPStatus.UNPROCESSABLE_ENTITY,
    "bad_selector": HTTPStatus.UNPROCESSABLE_ENTITY,
    "bad_waves": HTTPStatus.UNPROCESSABLE_ENTITY,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
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
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "trust_unusable": HTTPStatus.SERVICE_UNAVAILABLE,
}


def answer(status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """An ErrorDocument as a response."""
    document = ErrorDocument(error=ErrorBody(code=code, message=message))
    return JSONResponse(document.model_dump(), status_code=status, headers=headers)


def refusal(error: RegistryError) -> JSONResponse:
    """The response for an error of ours."""
    status = STATUS_OF.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.retryable else {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Device"
    return answer(status, error.code, str(error), headers=headers)


def install_error_answers(app: FastAPI) -> None:
    """Let the app answer every kind of failure with a document."""
    app.add_exception_handler(RegistryError, _registry_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


async def _registry_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RegistryError):
        raise error
    if error.retryable:
        logger.warning("%s", error)
    return refusal(error)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", sentence(error.errors()))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: no such route, a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    where = f"{request.method} {request.url.path[:120]}"
    messages = {
        HTTPStatus.NOT_FOUND: f"There is no address {where}; a name in an address has {NAME_RULE}.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{where} is not possible here; /docs lists what is.",
    }
    codes = {HTTPStatus.NOT_FOUND: "no_such_address", HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed"}
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers) if error.headers else None
    return answer(status, codes.get(status, "invalid"), messages.get(status, str(error.detail)), headers=headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the log has the details, the answer has none."""
    logger.error("%s %s failed.", request.method, request.url.path, exc_info=error)
    message = "The registry made a mistake; its log (api.log) says more. Nothing was changed by this request."
    return answer(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message)
