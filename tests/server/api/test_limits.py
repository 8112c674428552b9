"""How often one may ask, and what becomes of those who guess."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.api.rates import KEPT, Rate

Registry = Any
TOGETHER = {"requests_per_s_address": 1e6, "requests_per_s_identity": 1e6, "failed_logins_per_minute": 1e6}


def message_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


def wait_named(answer: httpx.Response) -> float:
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "slow_down")
    assert answer.headers["x-request-id"]
    return float(answer.headers["retry-after"])


def test_identity_that_asks_too_often_waits_and_others_do_not(start_registry: Callable[..., Registry]) -> None:
    # 0.5 a second, five at once
    own = start_registry(**{**TOGETHER, "requests_per_s_identity": 0.5})
    with httpx.Client(base_url=own.url, timeout=20, headers=own.login) as client:
        other = client.post("/v1/operators", json={"name": "other", "role": "viewer"}).json()["token"]
        answers = [client.get("/v1/whoami") for _ in range(10)]
        statuses = [answer.status_code for answer in answers]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert statuses[:4] == [200] * 4
        assert 1 <= wait_named(refused) <= 2
        assert "More requests came from local-" in message_of(refused)
        assert client.get("/v1/whoami", headers={"Authorization": f"Bearer {other}"}).status_code == 200
        assert client.get("/v1/health").status_code == 200
        time.sleep(2.1)
        assert client.get("/v1/whoami").status_code == 200


def test_address_that_asks_too_often_waits_also_for_health(start_registry: Callable[..., Registry]) -> None:
    own = start_registry(**{**TOGETHER, "requests_per_s_address": 0.001})
    with httpx.Client(base_url=own.url, timeout=20) as client:
        assert client.get("/v1/health").status_code == 200
        refused = client.get("/v1/health")
        assert 1 <= wait_named(refused) <= 1000
        assert "from this address" in message_of(refused)
        # who claims to be somewhere else is still here
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded"):
            assert client.get("/v1/health", headers={name: "10.1.2.3"}).status_code == 429


@pytest.mark.parametrize(
    ("method", "path", "header", "body"),
    [
        ("GET", "/v1/whoami", "Bearer shoal-op-guess", None),
        ("GET", "/v1/device/desired", "Device dev-1:guess", None),
        ("POST", "/v1/join", "", {"token": "shoal-guess"}),
    ],
)
def test_guesses_are_slowed_and_whoever_is_known_is_not(
    start_registry: Callable[..., Registry], method: str, path: str, header: str, body: dict[str, str] | None
) -> None:
    own = start_registry(**{**TOGETHER, "failed_logins_per_minute": 3})
    headers = {"Authorization": header} if header else {}
    with httpx.Client(base_url=own.url, timeout=20) as guesser:
        answers = [guesser.request(method, path, headers=headers, json=body) for _ in range(6)]
        assert [answer.status_code for answer in answers[:3]] == [401] * 3
        slowed = [answer for answer in answers if answer.status_code == 429]
        assert slowed
        assert 1 <= wait_named(slowed[0]) <= 20
        assert "wait, then try the right token" in message_of(slowed[0])
        # the same address, for example behind the same router, and a token that is right
        assert guesser.get("/v1/whoami", headers=own.login).status_code == 200


def test_buckets_are_bounded_in_number() -> None:
    rate = Rate(per_s=1.0, burst=1.0)
    for number in range(KEPT + 100):
        assert rate.wait_s(f"address-{number}", now=0.0) == 0.0
    assert len(rate._buckets) == KEPT
    assert rate.wait_s(f"address-{KEPT}", now=0.0) == 1.0


def test_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    rate = Rate(per_s=1.0, burst=2.0)
    assert [rate.wait_s("a", now=now) for now in (100.0, 50.0, 50.0)] == [0.0, 0.0, 1.0]


def test_body_of_a_stranger_is_not_read_into_memory(start_registry: Callable[..., Registry]) -> None:
    own = start_registry()
    with httpx.Client(base_url=own.url, timeout=20) as stranger:
        answer = stranger.post("/v1/models/net/versions/1", content=b"\0" * 30_000_000)
        assert (answer.status_code, "edge-registry login" in message_of(answer)) == (401, True)
    assert not (own.settings.data_dir / "uploads").exists()
