"""Taking a device or a version out of use over HTTP: never while something needs it, and seen by all afterwards."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.database.tables import deployments, rollout_states, rollouts
from tests.postgresql import ON_BOTH_DATABASES

pytestmark = ON_BOTH_DATABASES

# The classes behind these fixtures live in a conftest, which a test can't import.
Registry = Any
Profile = Callable[..., dict[str, Any]]


def message_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


@pytest.fixture
def join(http: httpx.Client, profile: Profile) -> Callable[..., str]:
    """Let a device join; its id."""
    http.post("/v1/profiles", json=profile())

    def joined(device_id: str = "dev-1", **labels: str) -> str:
        token = http.post("/v1/tokens", json={"labels": labels}).json()["token"]
        answer = http.post("/v1/join", json={"token": token, "profile": "pi-x", "device_id": device_id})
        assert answer.status_code == 201, answer.text
        return device_id

    return joined


@pytest.fixture
def roll_out(registry: Registry) -> Callable[..., str]:
    """Write a rollout as the API and the controller would; its id."""

    def write(
        *,
        state: str | None,
        model: str = "net",
        version: str = "1",
        devices: dict[str, str] | None = None,
        selector: str = "",
    ) -> str:
        rollout_id = f"r{len(written)}"
        written.append(rollout_id)
        row = {"rollout_id": rollout_id, "model": model, "version": version, "selector": selector}
        standing = {"rollout_id": rollout_id, "state": state, "wave": 0, "reason": "", "last_command_id": 0}
        with registry.catalogue.write() as connection:
            connection.execute(sa.insert(rollouts).values(**row, waves=[], seed=0, options={}, created_at=1.0))
            if state is not None:
                connection.execute(sa.insert(rollout_states).values(**standing, updated_at=1.0))
            for device_id, stands in (devices or {}).items():
                connection.execute(
                    sa.insert(deployments).values(
                        deployment_id=f"{rollout_id}-{device_id}",
                        rollout_id=rollout_id,
                        device_id=device_id,
                        wave=0,
                        profile="pi-x",
                        model=model,
                        version=version,
                        state=stands,
                        reason="none",
                        detail="",
                        updated_at=1.0,
                    )
                )
        return rollout_id

    written: list[str] = []
    return write


def test_device_that_is_retired_is_known_as_such_and_takes_part_in_nothing(
    http: httpx.Client, join: Callable[..., str], add_version: Callable[..., None]
) -> None:
    join("dev-1")
    join("dev-2")
    add_version()
    assert http.delete("/v1/devices/dev-1").status_code == 204

    assert [found["device_id"] for found in http.get("/v1/devices").json()] == ["dev-2"]
    (retired,) = http.get("/v1/devices", params={"retired": "true"}).json()
    assert retired["device_id"] == "dev-1"
    assert retired["retired_at"] > retired["joined_at"]
    for answer in (
        http.delete("/v1/devices/dev-1"),
        http.get("/v1/devices/dev-1"),
        http.patch("/v1/devices/dev-1", json={"labels": {"a": "b"}}),
        http.post("/v1/devices/dev-1/inquiries", json={"kind": "log"}),
    ):
        assert answer.status_code == 404
        assert "Device dev-1 is retired" in message_of(answer)
    started = http.post("/v1/rollouts", json={"model": "net", "version": "1", "selector": "id=dev-1", "waves": []})
    assert started.status_code == 422
    join("dev-1")
    assert http.get("/v1/devices", params={"retired": "true"}).json() == []


def test_device_that_is_unknown_is_not_retired(http: httpx.Client) -> None:
    answer = http.delete("/v1/devices/nobody")
    assert answer.status_code == 404
    assert "There is no device nobody" in message_of(answer)


@pytest.mark.parametrize("stands", ["waiting", "downloading", "running", "retrying"])
def test_device_in_a_rollout_is_retired_only_by_force(
    http: httpx.Client, join: Callable[..., str], roll_out: Callable[..., str], stands: str
) -> None:
    join()
    rollout_id = roll_out(state="running", devices={"dev-1": stands})
    answer = http.delete("/v1/devices/dev-1")
    assert answer.status_code == 409
    assert f"Device dev-1 is in rollout {rollout_id} of net@1 ({stands})" in message_of(answer)
    assert "--force" in message_of(answer)
    assert http.get("/v1/devices/dev-1").status_code == 200
    assert http.delete("/v1/devices/dev-1", params={"force": "true"}).status_code == 204


@pytest.mark.parametrize(
    ("state", "stands"),
    [("running", "failed"), ("running", "timed_out"), ("finished", "running"), ("aborted", "waiting")],
)
def test_device_of_which_a_rollout_wants_no_more_is_retired(
    http: httpx.Client, join: Callable[..., str], roll_out: Callable[..., str], state: str, stands: str
) -> None:
    join()
    roll_out(state=state, devices={"dev-1": stands})
    assert http.delete("/v1/devices/dev-1").status_code == 204


def test_device_that_a_rollout_means_which_has_just_begun_is_not_retired(
    http: httpx.Client, join: Callable[..., str], roll_out: Callable[..., str]
) -> None:
    join("dev-1", site="berlin")
    join("dev-2", site="paris")
    roll_out(state=None, selector="site=berlin")
    assert http.delete("/v1/devices/dev-1").status_code == 409
    assert http.delete("/v1/devices/dev-2").status_code == 204
