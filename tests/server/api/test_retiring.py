"""Taking a device or a version out of use over HTTP: never while something needs it, and seen by all afterwards."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.database.tables import (
    choices,
    deployments,
    desired,
    device_states,
    retired_versions,
    rollout_states,
    rollouts,
)
from tests import certificates
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
        answer = http.post("/v1/enrolment", json=certificates.body(token, profile="pi-x", device_id=device_id))
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
        previous: dict[str, Any] | None = None,
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
                        previous=previous,
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


@pytest.fixture
def want(registry: Registry) -> Callable[..., None]:
    """Write what a device is wanted to run, and what it says it serves."""

    def write(device_id: str, deployment_id: str, version: str, *, model: str = "net", serves: str = "") -> None:
        entry = entry_of(deployment_id, version, model)
        document = {"epoch": 1, "generation": 1, "deployments": [entry]}
        status = {"deployments": [{"model": model, "version": serves, "serving": True}]} if serves else None
        with registry.catalogue.write() as connection:
            connection.execute(
                sa.insert(desired).values(device_id=device_id, epoch=1, generation=1, document=document, updated_at=FAR)
            )
            connection.execute(
                sa.insert(device_states).values(device_id=device_id, last_seen_at=FAR, status=status, online=True)
            )

    return write


FAR = 4e9  # after whatever the registry's own clock says


def entry_of(deployment_id: str, version: str, model: str = "net") -> dict[str, Any]:
    return {
        "deployment_id": deployment_id,
        "model": model,
        "version": version,
        "variant_id": "v",
        "manifest_sha256": "a" * 64,
        "manifest_bytes": 1,
    }


def names_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [f"{found['model']}@{found['version']}" for found in answer.json()]


def test_version_that_is_retired_is_hidden_and_nothing_new_is_made_of_it(
    http: httpx.Client, join: Callable[..., str], add_version: Callable[..., None], roll_out: Callable[..., str]
) -> None:
    join()
    for version in ("1", "2"):
        add_version(version=version)
    over = roll_out(state="finished")
    assert names_of(http.put("/v1/models/net/versions/1/retirement")) == ["net@1"]

    assert names_of(http.get("/v1/models/net/versions")) == ["net@2"]
    assert sorted(names_of(http.get("/v1/models/net/versions", params={"retired": "true"}))) == ["net@1", "net@2"]
    since = http.get("/v1/models/net/versions/1").json()["retired_at"]
    plan = {"model": "net", "version": "1", "selector": "", "waves": [{"percent": 100}]}
    for refused in (
        http.post("/v1/rollouts", json=plan),
        http.post("/v1/rollouts/dry-run", json=plan),
        http.post("/v1/models/net/versions/1/variants", json={}),
        http.post("/v1/models/net/versions/1/searches", json={"profile": "pi-x", "trials": 1}),
        http.post(f"/v1/rollouts/{over}/actions", json={"action": "retry"}),
    ):
        assert refused.status_code == 409, refused.text
        assert "Version 1 of model net is retired" in message_of(refused)
        assert "--undo" in message_of(refused)
    assert http.post("/v1/rollouts", json={**plan, "version": "2"}).status_code == 201

    # told twice, it stays as it is
    assert http.put("/v1/models/net/versions/1/retirement").json()[0]["retired_at"] == since
    assert names_of(http.delete("/v1/models/net/versions/1/retirement")) == ["net@1"]
    assert http.post("/v1/rollouts", json=plan).status_code == 201


def test_model_is_retired_with_all_its_versions_or_with_none(
    http: httpx.Client, add_version: Callable[..., None], roll_out: Callable[..., str]
) -> None:
    for version in ("1", "2"):
        add_version(version=version)
    rollout_id = roll_out(state="paused", version="2")
    answer = http.put("/v1/models/net/retirement")
    assert answer.status_code == 409
    assert f"Version 2 of model net can't be retired: rollout {rollout_id} delivers it" in message_of(answer)
    assert len(names_of(http.get("/v1/models/net/versions"))) == 2, "nothing of it was written"

    add_version(model="other")
    assert names_of(http.put("/v1/models/other/retirement")) == ["other@1"]
    assert names_of(http.get("/v1/models")) == ["net@2"] or names_of(http.get("/v1/models")) == ["net@1"]
    assert "other@1" in names_of(http.get("/v1/models", params={"retired": "true"}))
    hidden = http.get("/v1/models/other/versions")
    assert hidden.status_code == 404
    assert "Every version of model other is retired" in message_of(hidden)
    assert names_of(http.delete("/v1/models/other/retirement")) == ["other@1"]
    again = http.delete("/v1/models/other/retirement")
    assert again.status_code == 409
    assert "No version of model other is retired" in message_of(again)


def test_version_that_devices_run_or_would_go_back_to_is_not_retired(
    http: httpx.Client,
    join: Callable[..., str],
    add_version: Callable[..., None],
    roll_out: Callable[..., str],
    want: Callable[..., None],
) -> None:
    for version in ("1", "2", "3", "4"):
        add_version(version=version)
    for device_id in ("dev-1", "dev-2"):
        join(device_id)
    # dev-1 went from 1 over 2, which was rolled back, to 3; dev-2 still serves 4 and is wanted to run 3
    roll_out(state="rolled_back", version="2", devices={"dev-1": "rolled_back"}, previous=entry_of("x", "1"))
    roll_out(state="finished", version="3", devices={"dev-1": "running"}, previous=entry_of("r0-dev-1", "2"))
    want("dev-1", "r1-dev-1", "3")
    want("dev-2", "elsewhere", "3", serves="4")

    def refusal(version: str) -> str:
        answer = http.put(f"/v1/models/net/versions/{version}/retirement")
        assert answer.status_code == 409
        return message_of(answer)

    assert "devices dev-1, dev-2 run it" in refusal("3")
    assert "device dev-2 runs it" in refusal("4")
    assert "device dev-1 would go back to it" in refusal("1")
    assert http.put("/v1/models/net/versions/2/retirement").status_code == 200, "a version that was taken back"

    assert http.delete("/v1/devices/dev-1").status_code == 204
    assert http.put("/v1/models/net/versions/1/retirement").status_code == 200, "who is retired needs nothing"


def test_version_that_a_rollout_which_has_just_begun_or_a_job_needs_is_not_retired(
    http: httpx.Client, join: Callable[..., str], add_version: Callable[..., None], roll_out: Callable[..., str]
) -> None:
    join()
    for version in ("1", "2"):
        add_version(version=version)
    started = roll_out(state=None, version="1")
    assert f"rollout {started} delivers it" in message_of(http.put("/v1/models/net/versions/1/retirement"))
    (job,) = http.post("/v1/models/net/versions/2/variants", json={}).json()
    assert f"job {job['job_id']} is at work on it" in message_of(http.put("/v1/models/net/versions/2/retirement"))


def test_version_retired_and_rolled_out_at_once_is_one_or_the_other(
    http: httpx.Client, join: Callable[..., str], add_version: Callable[..., None], registry: Registry
) -> None:
    join()
    add_version()
    with registry.catalogue.write() as connection:
        row = {"model": "net", "version": "1", "profile": "pi-x", "variant_id": "v", "created_at": 1.0}
        connection.execute(sa.insert(choices).values(row))  # so that no build holds it up
    plan = {"model": "net", "version": "1", "selector": "", "waves": [{"percent": 100}]}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            retired = pool.submit(http.put, "/v1/models/net/versions/1/retirement")
            started = pool.submit(http.post, "/v1/rollouts", json=plan)
            assert (retired.result().status_code, started.result().status_code) in {(200, 409), (409, 201)}
            with registry.catalogue.write() as connection:
                for table in (rollouts, retired_versions):
                    connection.execute(sa.delete(table))


def test_version_that_is_unknown_or_retired_long_ago_is_told_of(
    http: httpx.Client, add_version: Callable[..., None], registry: Registry
) -> None:
    assert http.put("/v1/models/nothing/retirement").status_code == 404
    add_version()
    assert "There is no version 9" in message_of(http.put("/v1/models/net/versions/9/retirement"))
    assert http.delete("/v1/models/net/versions/1/retirement").status_code == 409
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(retired_versions).values(model="net", version="1", retired_at=1.0))
    gone = http.delete("/v1/models/net/versions/1/retirement")
    assert gone.status_code == 409
    assert "retired more than 7 days ago, and its files are freed" in message_of(gone)
