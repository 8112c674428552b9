"""Which operation a request means, by the OpenAPI document: known before anything of the request is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.routing import compile_path

from server.operators.roles import ROLES, Beside

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Mapping

LOGIN: Final = "operator"
DEVICE: Final = "device"
_SCHEMES: Final[dict[str, dict[str, str]]] = {
    LOGIN: {"type": "http", "scheme": "bearer", "description": "an operator's token, or one of the OpenID provider"},
    DEVICE: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Device ID:KEY`, with what the device got when it joined",
    },
}


class Operations:
    """The operations of an OpenAPI document by method and path; the first path that fits is meant, as in the router."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths: list[tuple[re.Pattern[str], dict[str, str]]] = []
        for path, methods in document["paths"].items():
            pattern, _, _ = compile_path(path)
            self._paths.append((pattern, {method.upper(): found["operationId"] for method, found in methods.items()}))

    def find(self, method: str, path: str) -> str | None:
        """The id of the operation; None: there is none."""
        for pattern, operations in self._paths:
            if method in operations and pattern.match(path):
                return operations[method]
        return None

    def methods(self, path: str) -> list[str]:
        """What may be asked of an address, by the first path that fits."""
        return next((sorted(operations) for pattern, operations in self._paths if pattern.match(path)), [])


def each_operation(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of an OpenAPI document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def with_roles(document: dict[str, Any]) -> dict[str, Any]:
    """The document, where each operation says who may use it."""
    document.setdefault("components", {})["securitySchemes"] = _SCHEMES
    for _, _, operation in each_operation(document):
        wanted = ROLES.get(operation["operationId"])
        if wanted is None or wanted in {Beside.NOBODY, Beside.JOINING}:
            continue
        operation["security"] = [{DEVICE if wanted is Beside.DEVICE else LOGIN: []}]
        operation["x-role"] = wanted.value
    return document
