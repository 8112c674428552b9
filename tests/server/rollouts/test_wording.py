"""Sentences agree with their numbers."""

from __future__ import annotations

import pytest

from server.rollouts.wording import will_not_get_it


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "no other device was still to get it"),
        (1, "1 other device will not get it"),
        (3, "3 other devices will not get it"),
    ],
)
def test_devices_that_an_offer_was_taken_from_are_counted_in_words_that_agree(number: int, said: str) -> None:
    assert will_not_get_it(number, other=True) == said
    assert will_not_get_it(number) == said.replace("other ", "")
