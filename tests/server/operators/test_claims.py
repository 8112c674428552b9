"""From claims to an operator."""

from typing import Any

import pytest

from server.errors import ForbiddenError
from server.operators.claims import name_of, role_of
from server.schemas.operators import Role

MAPPING = {"fleet-admins": Role.ADMIN, "fleet": Role.OPERATOR, "staff": Role.VIEWER}


@pytest.mark.parametrize(
    ("claims", "claim", "role"),
    [
        ({"roles": ["staff"]}, "roles", Role.VIEWER),
        ({"roles": ["staff", "fleet-admins", "fleet"]}, "roles", Role.ADMIN),
        ({"roles": "fleet"}, "roles", Role.OPERATOR),
        ({"realm_access": {"roles": ["x", "fleet"]}}, "realm_access.roles", Role.OPERATOR),
    ],
)
def test_role_is_the_highest_that_a_claim_gives(claims: dict[str, Any], claim: str, role: Role) -> None:
    assert role_of(claims, claim, MAPPING) is role


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"roles": []},
        {"roles": ["admin"]},
        {"roles": {"fleet": True}},
        {"roles": [["fleet"], 1, None]},
        {"roles": 3},
    ],
)
def test_claim_that_gives_none_opens_nothing(claims: dict[str, Any]) -> None:
    with pytest.raises(ForbiddenError, match="ask an admin"):
        role_of(claims, "roles", MAPPING)


def test_name_can_not_be_that_of_an_operator_of_ours() -> None:
    assert name_of({"sub": "ada"}, "sub") == "oidc:ada"
    for claims in ({}, {"sub": 7}, {"sub": ""}, {"sub": "a\nb"}, {"sub": "x" * 300}):
        with pytest.raises(ForbiddenError):
            name_of(claims, "sub")
