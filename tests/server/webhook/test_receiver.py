from __future__ import annotations

import pytest

from server.errors import SettingsError
from server.webhook.receiver import Receiver, ReceiverUnavailableError
from tests.server.hook import Hook


def test_post_redirect_is_not_followed(hook: Hook) -> None:
    other = Hook()
    hook.status, hook.location = 307, f"{other.url}/elsewhere"
    receiver = Receiver(hook.url)
    try:
        assert receiver.post(b"{}") == 307
    finally:
        receiver.close()
        other.stop()
    assert (len(hook.posted), other.posted) == (1, [])


def test_post_receiver_that_is_away_or_silent_is_an_error_without_its_address(hook: Hook) -> None:
    receiver = Receiver(f"{hook.url}/token?key=token", answer_timeout_s=0.2)
    hook.answers.clear()
    with pytest.raises(ReceiverUnavailableError, match="did not answer in time") as silent:
        receiver.post(b"{}")
    hook.stop()
    with pytest.raises(ReceiverUnavailableError, match="not reached") as away:
        receiver.post(b"{}")
    receiver.close()
    assert "token" not in f"{silent.value}{away.value}"


def test_receiver_name_is_the_host_alone() -> None:
    receiver = Receiver("https://user:password@hooks.example:8443/token?key=token")
    receiver.close()
    assert receiver.name == "https://hooks.example:8443"


def test_receiver_address_that_cannot_be_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError, match="webhook_url") as raised:
        Receiver("https://hooks.example/tok\x00en")
    assert "tok" not in str(raised.value)
