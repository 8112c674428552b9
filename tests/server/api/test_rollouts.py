"""Rollouts and telemetry over HTTP: plans, words said to them, and what the controller wrote."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.database.tables import (
    choices,
    decisions,
    deployments,
    desired,
    device_states,
    jobs,
    rollout_commands,
    rollout_states,
    rollouts,
    variants,
)
from tests import certificates
from tests.postgresql import ON_BOTH_DATABASES

pytestmark = ON_BOTH_DATABASES

# The class behind this fixture lives in a conftest, which a test can't import.
Registry = Any
Profile = Callable[..., dict[str, Any]]


def message_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


@pytest.fixture
def fleet(http: httpx.Client, profile: Profile, add_version: Callable[..., None]) -> None:
    """Two profiles, three devices, one version."""
    add_version()
    for name in ("pi-x", "pi-y"):
        http.post("/v1/profiles", json=profile(name=name))
    for number, (kind, site) in enumerate((("pi-x", "berlin"), ("pi-y", "berlin"), ("pi-x", "paris"))):
        token = http.post("/v1/tokens", json={}).json()["token"]
        body = certificates.body(token, profile=kind, device_id=f"dev-{number}", labels={"site": site})
        assert http.post("/v1/enrolment", json=body).status_code == 201


@pytest.fixture
def start(http: httpx.Client, fleet: None) -> Callable[..., httpx.Response]:
    """Start a rollout."""
    assert fleet is None

    def post(**request: object) -> httpx.Response:
        return http.post("/v1/rollouts", json={"model": "net", "version": "1", **request})

    return post


def set_state(registry: Registry, rollout_id: str, state: str, last_command_id: int = 0) -> None:
    row = {"state": state, "wave": 0, "reason": "why", "last_command_id": last_command_id, "updated_at": 2.0}
    with registry.catalogue.write() as connection:
        connection.execute(sa.delete(rollout_states).where(rollout_states.c.rollout_id == rollout_id))
        connection.execute(sa.insert(rollout_states).values(rollout_id=rollout_id, **row))


def test_start_writes_the_plan_and_asks_for_what_is_missing(
    registry: Registry, http: httpx.Client, start: Callable[..., httpx.Response]
) -> None:
    with registry.catalogue.write() as connection:
        row = {"model": "net", "version": "1", "profile": "pi-y", "variant_id": "v-a", "created_at": 1.0}
        connection.execute(sa.insert(choices).values(row))
    answer = start(selector=" site = berlin ", waves=[{"count": 1}, {"percent": 100}], seed=4)
    assert answer.status_code == 201
    rollout = answer.json()
    assert (rollout["state"], rollout["selector"], rollout["wave"]) == ("preparing", "site=berlin", -1)
    (job,) = http.get("/v1/jobs").json()
    assert job["kind"] == "build"
    with registry.catalogue.read() as connection:
        assert connection.execute(sa.select(jobs.c.request)).scalar_one()["profiles"] == ["pi-x"]
        plan = connection.execute(sa.select(rollouts)).one()
    assert plan.waves == [{"count": 1}, {"percent": 100.0}]
    assert plan.seed == 4
    assert start(selector="site=berlin").status_code == 201
    assert len(http.get("/v1/jobs").json()) == 1
    assert len(http.get("/v1/rollouts").json()) == 2


def test_dry_run_tells_who_would_get_what_and_writes_nothing(
    registry: Registry, http: httpx.Client, fleet: None
) -> None:
    assert fleet is None
    row = {"model": "net", "version": "1", "profile": "pi-x", "variant_id": "v-a", "created_at": 1.0}
    made = {"recipe": "float32", "runtime": "litert", "delegate": "none", "verdict": "fits", "chosen": True}
    sizes = {"manifest_sha256": "a" * 64, "manifest_bytes": 100, "object_sha256": "b" * 64, "object_bytes": 5000}
    wanted = {"deployment_id": "dep-1", "model": "net", "version": "1", "variant_id": "v-a", "manifest_bytes": 100}
    document = {"epoch": 1, "generation": 1, "deployments": [{**wanted, "manifest_sha256": "a" * 64}]}
    told = {"deployment_id": "dep-1", "model": "net", "version": "1", "variant_id": "v-a", "state": "active"}
    status = {"session_id": "5" * 32, "sequence": 1, "observed_epoch": 1, "observed_generation": 1}
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(choices).values(row))
        connection.execute(sa.insert(variants).values(**row, **made, **sizes, document={}))
        order = {"device_id": "dev-0", "epoch": 1, "generation": 1, "updated_at": 1.0}
        connection.execute(sa.insert(desired).values(**order, document=document))
        status = {**status, "deployments": [told]}
        connection.execute(sa.insert(device_states).values(device_id="dev-0", last_seen_at=1.0, status=status))
    answer = http.post("/v1/rollouts/dry-run", json={"model": "net", "version": "1"})
    assert answer.status_code == 200, answer.text
    found = {device["device_id"]: device for device in answer.json()["devices"]}
    assert [found[f"dev-{number}"]["download_bytes"] for number in range(3)] == [0, 0, 5100]
    assert (found["dev-0"]["already"], found["dev-1"]["to_be_built"]) == (True, True)
    assert answer.json()["download_bytes"] == 5100
    assert http.get("/v1/rollouts").json() == []
    assert http.get("/v1/jobs").json() == [], "nothing is built for a question"


def test_approve_is_refused_unless_a_wave_waits_and_names_that_wave(
    registry: Registry, http: httpx.Client, start: Callable[..., httpx.Response]
) -> None:
    rollout_id = start(options={"approve_waves": [1]}).json()["rollout_id"]

    def approve() -> httpx.Response:
        return http.post(f"/v1/rollouts/{rollout_id}/actions", json={"action": "approve"})

    refused = approve()
    assert refused.status_code == 409
    assert "waits for approval" in message_of(refused)
    set_state(registry, rollout_id, "preparing")
    with registry.catalogue.write() as connection:
        connection.execute(sa.update(rollout_states).values(wave=-1, approval_wave=0))
    assert http.get(f"/v1/rollouts/{rollout_id}").json()["approval_wave"] == 0
    assert [approve().status_code for _ in range(2)] == [202, 202]
    with registry.catalogue.read() as connection:
        assert connection.execute(sa.select(rollout_commands.c.wave)).scalars().all() == [0, 0]


def test_lane_is_commanded_by_its_profile_as_often_as_one_likes(
    registry: Registry, http: httpx.Client, start: Callable[..., httpx.Response]
) -> None:
    rollout_id = start().json()["rollout_id"]

    def say(action: str, profile: str | None = "pi-x") -> httpx.Response:
        return http.post(f"/v1/rollouts/{rollout_id}/actions", json={"action": action, "profile": profile})

    assert "not planned yet" in message_of(say("pause"))
    set_state(registry, rollout_id, "running")
    common = {"rollout_id": rollout_id, "model": "net", "version": "1", "updated_at": 1.0, "wave": 0}
    with registry.catalogue.write() as connection:
        for name in ("pi-x", "pi-y"):
            row = {"deployment_id": f"dep-{name}", "device_id": name, "profile": name, "state": "waiting"}
            connection.execute(sa.insert(deployments).values(**common, **row, reason="none", detail="", canary=False))
        lanes = {"pi-x": {"paused": True, "ended": "", "rejected": ["v-a"]}}
        connection.execute(sa.update(rollout_states).values(lanes=lanes))
    refused = say("pause", "pi-z")
    assert (refused.status_code, message_of(refused)) == (
        404,
        f"Rollout {rollout_id} has no lane pi-z: it has pi-x, pi-y.",
    )
    assert [say(action).status_code for action in ("pause", "pause", "resume", "rollback", "retry")] == [202] * 5
    assert say("approve").status_code == 409
    with registry.catalogue.read() as connection:
        said = connection.execute(sa.select(rollout_commands)).all()
    assert [command.profile for command in said] == ["pi-x"] * 5
    (lane,) = http.get(f"/v1/rollouts/{rollout_id}").json()["lanes"]
    assert lane == {"profile": "pi-x", "paused": True, "ended": "", "rejected": ["v-a"]}
    set_state(registry, rollout_id, "finished", last_command_id=max(command.command_id for command in said))
    assert say("pause").status_code == 409
    assert say("retry", None).status_code == 202
    assert say("pause").status_code == 202, "it goes on once that was obeyed"


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"selector": "site=rome"}, 422, "matches no device"),
        ({"selector": "site"}, 422, "KEY=VALUE"),
        ({"version": "9"}, 404, "it has 1;"),
        ({"model": "../x"}, 422, "1 to 63 letters"),
        ({"waves": []}, 422, "waves"),
        ({"waves": [{"percent": 101}]}, 422, "percent"),
        ({"waves": [{"percent": 10, "count": 1}]}, 422, "either a percentage"),
        ({"waves": [{"percent": 50}, {"percent": 10}]}, 422, "must grow"),
        ({"options": {"max_failures": -1}}, 422, "max_failures"),
        ({"options": {"window": "22-04"}}, 422, "for example 22:00-04:00"),
        ({"options": {"time_zone": "Europe/Berln"}}, 422, "'Europe/Berln' is no time zone"),
        ({"options": {"pace_per_minute": 0}}, 422, "pace_per_minute"),
        ({"options": {"approve_waves": [2]}}, 422, "names wave 2, but there are 1"),
        ({"waves": [{"count": 1}], "options": {"join_later": True}}, 422, "needs a last wave of 100%"),
    ],
)
def test_start_that_cannot_be_is_one_sentence_and_leaves_nothing(
    http: httpx.Client, start: Callable[..., httpx.Response], request_: dict[str, Any], status: int, words: str
) -> None:
    asked = http.post("/v1/rollouts/dry-run", json={"model": "net", "version": "1", **request_})
    for answer in (asked, start(**request_)):
        assert answer.status_code == status
        assert words in message_of(answer)
    assert http.get("/v1/rollouts").json() == []
    assert http.get("/v1/jobs").json() == []


def test_actions_follow_each_other_before_the_controller_has_obeyed(
    registry: Registry, http: httpx.Client, start: Callable[..., httpx.Response]
) -> None:
    rollout_id = start().json()["rollout_id"]

    def say(action: str) -> httpx.Response:
        return http.post(f"/v1/rollouts/{rollout_id}/actions", json={"action": action})

    refused = say("resume")
    assert refused.status_code == 409
    assert "can't resume: possible is pause, abort, rollback" in message_of(refused)
    assert [say(action).status_code for action in ("pause", "resume", "pause")] == [202] * 3
    assert say("pause").status_code == 409
    with registry.catalogue.read() as connection:
        said = connection.execute(sa.select(rollout_commands).order_by(rollout_commands.c.command_id)).all()
    assert [command.action for command in said] == ["pause", "resume", "pause"]
    set_state(registry, rollout_id, "finished", last_command_id=said[-1].command_id)
    assert say("abort").status_code == 409
    assert say("rollback").status_code == 202
    assert "nothing can be said to it any more" in message_of(say("rollback"))
    assert http.post("/v1/rollouts/nothing/actions", json={"action": "pause"}).status_code == 404
    assert http.post(f"/v1/rollouts/{rollout_id}/actions", json={"action": "explode"}).status_code == 422


def test_status_counts_waves_and_tells_why(
    registry: Registry, http: httpx.Client, start: Callable[..., httpx.Response]
) -> None:
    rollout_id = start().json()["rollout_id"]
    set_state(registry, rollout_id, "running")
    states = [(0, "running", "none"), (0, "failed", "load_failed"), (1, "waiting", "none"), (1, "downloading", "none")]
    common = {"rollout_id": rollout_id, "profile": "pi-x", "model": "net", "version": "1", "updated_at": 1.0}
    with registry.catalogue.write() as connection:
        for number, (wave, state, reason) in enumerate(states):
            row = {"deployment_id": f"dep-{number}", "device_id": f"dev-{number}", "wave": wave, "state": state}
            connection.execute(sa.insert(deployments).values(**common, **row, reason=reason, detail="d", canary=False))
        for number in range(3):
            told = {"rollout_id": rollout_id, "at": float(number), "action": "open", "numbers": {}}
            connection.execute(sa.insert(decisions).values(**told, sentence=f"Sentence {number}."))
    rollout = http.get(f"/v1/rollouts/{rollout_id}").json()
    first, second = rollout["waves"]
    assert (first["devices"], first["running"], first["failed"]) == (2, 1, 1)
    assert (second["devices"], second["waiting"], second["in_progress"]) == (2, 1, 1)
    assert [decision["sentence"] for decision in rollout["decisions"]] == ["Sentence 0.", "Sentence 1.", "Sentence 2."]
    assert [deployment["device_id"] for deployment in rollout["deployments"]] == ["dev-0", "dev-1", "dev-2", "dev-3"]
    (listed,) = http.get("/v1/rollouts").json()
    assert listed["waves"] == rollout["waves"]
    assert listed["deployments"] == []
    assert http.get("/v1/rollouts/nothing").status_code == 404


def test_telemetry_of_nobody_is_empty_and_unknown_groups_are_refused(http: httpx.Client) -> None:
    assert http.get("/v1/telemetry").json() == []
    answer = http.get("/v1/telemetry", params={"by": "colour"})
    assert answer.status_code == 422
    assert "possible are device, profile" in message_of(answer)
    assert http.get("/v1/telemetry", params={"since": "nan"}).status_code == 422
