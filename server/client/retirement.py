"""The routes of retiring, as methods of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from server.client.paths import version_path
from server.client.transport import segment
from server.schemas.catalogue import ModelVersion

if TYPE_CHECKING:
    from server.client.transport import Transport

_VERSIONS: Final = TypeAdapter(list[ModelVersion])


class RetirementCalls:
    """A part of `RegistryClient`."""

    _transport: Transport

    def retire_model(self, model: str, version: str | None = None) -> list[ModelVersion]:
        """Take a version out of use, or all of a model; refused while something needs one of them."""
        return self._transport.ask("PUT", _path(model, version), answer=_VERSIONS)

    def bring_model_back(self, model: str, version: str | None = None) -> list[ModelVersion]:
        """Take a version back into use, or all of a model that are retired."""
        return self._transport.ask("DELETE", _path(model, version), answer=_VERSIONS)


def _path(model: str, version: str | None) -> str:
    whole = f"/v1/models/{segment(model, 'the model')}" if version is None else version_path(model, version)
    return f"{whole}/retirement"
