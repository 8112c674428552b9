from __future__ import annotations

import pytest

from server.webhook.rules import Fate, fate_of, signature_of


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (200, Fate.TAKEN),
        (204, Fate.TAKEN),
        (301, Fate.LATER),
        (307, Fate.LATER),
        (400, Fate.REFUSED),
        (404, Fate.REFUSED),
        (408, Fate.LATER),
        (410, Fate.REFUSED),
        (429, Fate.LATER),
        (500, Fate.LATER),
        (503, Fate.LATER),
        (999, Fate.LATER),
    ],
)
def test_fate_of_status_tells_what_to_do_next(status: int, fate: Fate) -> None:
    assert fate_of(status) is fate


def test_signature_of_known_message_is_that_of_github() -> None:
    # the example of GitHub's page on validating webhook deliveries
    expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert signature_of(b"Hello, World!", "It's a Secret to Everybody") == expected
