"""Asking through an outage."""

import pytest

from server.client import RegistryClientError
from server.client.outages import through_outages


def test_registry_that_comes_back_is_asked_again() -> None:
    answers: list[object] = [RegistryClientError("unreachable", "away"), RegistryClientError("busy", "busy", 503), 7]

    def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, RegistryClientError):
            raise answer
        return answer

    assert through_outages(ask) == 7


@pytest.mark.parametrize(("code", "outage_s"), [("not_found", 30.0), ("unreachable", 0.0)])
def test_refusal_or_a_long_outage_is_told(code: str, outage_s: float) -> None:
    def ask() -> None:
        raise RegistryClientError(code, "no")

    with pytest.raises(RegistryClientError) as caught:
        through_outages(ask, outage_s=outage_s)
    assert caught.value.code == code
