"""From the claims of a verified token to an operator. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from server.errors import ForbiddenError
from server.schemas.operators import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME_LENGTH: Final = 200
_ORDER: Final = tuple(Role)


def name_of(claims: Mapping[str, Any], claim: str) -> str:
    """Who it is, as the audit log says it: never to be taken for an operator of ours.

    Raises:
        ForbiddenError: the claim is missing, or no text.
    """
    value = claims.get(claim)
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= NAME_LENGTH:
        raise ForbiddenError(
            f"The token of the OpenID provider has no usable {claim!r}, which oidc_name_claim asks for."
        )
    return f"oidc:{value}"


def role_of(claims: Mapping[str, Any], claim: str, mapping: Mapping[str, Role]) -> Role:
    """The highest role that the values of a claim stand for; `claim`: its path, with dots.

    Raises:
        ForbiddenError: they stand for none.
    """
    value: Any = claims
    for part in claim.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    roles = [mapping[one] for one in values if isinstance(one, str) and one in mapping]
    if not roles:
        raise ForbiddenError(
            f"The OpenID provider knows you, but nothing in your {claim!r} gives a role here: ask an admin of this "
            "registry (its settings oidc_roles_claim and oidc_roles say what does)."
        )
    return max(roles, key=_ORDER.index)
