"""What a caller gives, made a document before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from server.client.errors import RegistryClientError
from server.schemas.common import RequestDocument
from server.schemas.sentence import sentence

if TYPE_CHECKING:
    from collections.abc import Mapping

DocumentT = TypeVar("DocumentT", bound=RequestDocument)


def checked(kind: type[DocumentT], document: Mapping[str, Any]) -> DocumentT:
    """A document of this kind.

    Raises:
        RegistryClientError: the sentence names the field that does not fit.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        raise RegistryClientError("invalid", sentence(exc.errors(include_url=False))) from exc
