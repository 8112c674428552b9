"""What the log says: a walk over every operation that is no GET, done, refused, and with its recording taken out."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.api.operations import each_operation
from server.audit.chain import ChainCheck
from server.database import tables
from server.schemas.audit import AuditEntry
from tests.postgresql import ON_BOTH_DATABASES

Registry = Any
Deed = Callable[[], httpx.Response]
UNCHANGING = {"forecast_rollout"}  # POST for its body: it writes nothing


@pytest.fixture
def token(http: httpx.Client) -> dict[str, Any]:
    """A join token."""
    return dict(http.post("/v1/tokens", json={"labels": {"site": "berlin"}}).json())


@pytest.fixture
def world(
    http: httpx.Client, registry: Registry, profile: Callable[..., dict[str, Any]], add_version: Callable[..., None]
) -> None:
    """Devices, a version, a variant: something to change."""
    http.post("/v1/profiles", json=profile())
    for device in ("dev-1", "dev-2"):
        secret = http.post("/v1/tokens", json={}).json()["token"]
        body = {"token": secret, "profile": "pi-x", "device_id": device}
        assert http.post("/v1/join", json=body).status_code == 201
    for model, version in (("net", "1"), ("net", "2"), ("net", "3"), ("other", "1")):
        add_version(model, version)
    names = {"model": "net", "version": "1", "profile": "pi-x", "variant_id": "good", "recipe": "float32"}
    told = {"runtime": "litert", "delegate": "none", "verdict": "fits", "chosen": True}
    shas = {"manifest_sha256": "a" * 64, "object_sha256": "a" * 64}
    document = {**names, **told, **shas, "reason": ""}
    with registry.catalogue.write() as connection:
        row = {**names, **told, **shas, "document": document, "created_at": 1.0}
        connection.execute(sa.insert(tables.variants).values(row))


@pytest.fixture
def deeds(
    http: httpx.Client,
    world: None,  # noqa: ARG001
    token: dict[str, Any],
    profile: Callable[..., dict[str, Any]],
    push: Callable[..., httpx.Response],
) -> dict[str, Deed]:
    """By operation: a request that changes something, in an order in which each may follow those before it."""
    for name in ("spin", "gone"):
        http.delete(f"/v1/operators/{name}")
        http.post("/v1/operators", json={"name": name, "role": "viewer"})
    http.delete("/v1/operators/new")
    http.put("/v1/models/net/versions/2/retirement")
    rollout = http.post("/v1/rollouts", json={"model": "net", "version": "1"}).json()["rollout_id"]
    version = "/v1/models/net/versions/1"

    def join() -> httpx.Response:
        return http.post("/v1/join", json={"token": token["token"], "profile": "pi-x", "device_id": "dev-9"})

    def report() -> httpx.Response:
        return http.post(f"{version}/reports", files={"form": (None, json.dumps({"profile": "pi-x"}))})

    return {
        "join": join,
        "add_profile": lambda: http.post("/v1/profiles", json=profile(name="pi-new")),
        "push_version": lambda: push("fresh", "1"),
        "build_variants": lambda: http.post(f"{version}/variants", json={"recipes": ["float32"]}),
        "start_search": lambda: http.post(f"{version}/searches", json={"profile": "pi-x", "trials": 1}),
        "start_report": report,
        "create_token": lambda: http.post("/v1/tokens", json={"profile": "pi-x"}),
        "revoke_token": lambda: http.delete(f"/v1/tokens/{token['token_id']}"),
        "label_device": lambda: http.patch("/v1/devices/dev-1", json={"labels": {"ring": "canary"}}),
        "retire_device": lambda: http.delete("/v1/devices/dev-2", params={"force": "true"}),
        "ask_device": lambda: http.post("/v1/devices/dev-1/inquiries", json={"kind": "log"}),
        "start_rollout": lambda: http.post("/v1/rollouts", json={"model": "net", "version": "1"}),
        "command_rollout": lambda: http.post(f"/v1/rollouts/{rollout}/actions", json={"action": "pause"}),
        "retire_version": lambda: http.put("/v1/models/net/versions/3/retirement"),
        "bring_version_back": lambda: http.delete("/v1/models/net/versions/2/retirement"),
        "retire_model": lambda: http.put("/v1/models/other/retirement"),
        "bring_model_back": lambda: http.delete("/v1/models/net/retirement"),
        "sweep": lambda: http.post("/v1/sweeps", json={"dry_run": False}),
        "add_operator": lambda: http.post("/v1/operators", json={"name": "new", "role": "viewer"}),
        "rotate_operator": lambda: http.post("/v1/operators/spin/rotation", json={}),
        "revoke_operator": lambda: http.delete("/v1/operators/gone"),
    }


@pytest.fixture
def read(http: httpx.Client) -> Iterator[Callable[[], list[AuditEntry]]]:
    """The rows since the last look."""
    last = max((row["sequence"] for row in http.get("/v1/audit", params={"newest": 1}).json()), default=0)

    def rows() -> list[AuditEntry]:
        nonlocal last
        found = [AuditEntry.model_validate(row) for row in http.get("/v1/audit", params={"after": last}).json()]
        last = found[-1].sequence if found else last
        return found

    yield rows
    check = ChainCheck()
    first = 0
    while page := [AuditEntry.model_validate(row) for row in http.get("/v1/audit", params={"after": first}).json()]:
        check.take(page)
        first = page[-1].sequence
    assert check.broken is None


def everything(registry: Registry) -> dict[str, list[Any]]:
    """All rows of the catalogue but those of the log."""
    with registry.catalogue.read() as connection:
        return {
            table.name: sorted(map(str, connection.execute(sa.select(table)).all()))
            for table in tables.catalogue.sorted_tables
            if table is not tables.audit_log
        }


def changing(http: httpx.Client) -> set[str]:
    document = http.get("/openapi.json").json()
    return {operation["operationId"] for method, _, operation in each_operation(document) if method != "GET"}


@ON_BOTH_DATABASES
def test_every_change_is_recorded_and_none_is_made_without_its_record(
    http: httpx.Client,
    registry: Registry,
    deeds: dict[str, Deed],
    read: Callable[[], list[AuditEntry]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert changing(http) == set(deeds) | UNCHANGING
    read()
    before = everything(registry)
    with monkeypatch.context() as without_recording:
        without_recording.setattr("server.audit.trail.TRAIL", "nowhere")
        for operation, deed in deeds.items():
            assert (operation, deed().status_code) == (operation, 500)
            assert everything(registry) == before
    assert {row.outcome for row in read()} == {"refused"}
    for operation, deed in deeds.items():
        answer = deed()
        assert answer.is_success, (operation, answer.text)
        rows = read()
        assert rows, f"{operation} left no row"
        for row in rows:
            assert (row.operation, row.outcome, row.address) == (operation, "done", "127.0.0.1")
            assert re.fullmatch(r"[a-z]+\.[a-z_]+", row.change)
            assert row.request_id == answer.headers["x-request-id"]
            who = "join-token:" if operation == "join" else "local-"
            assert row.who.startswith(who)
        if answer.content and "token" in answer.json():
            assert answer.json()["token"] not in str(rows)


def test_row_says_what_there_was_and_what_there_is(
    http: httpx.Client,
    world: None,  # noqa: ARG001
    read: Callable[[], list[AuditEntry]],
) -> None:
    http.patch("/v1/devices/dev-1", json={"labels": {"site": "berlin"}})
    read()
    http.patch("/v1/devices/dev-1", json={"labels": {"site": "paris"}})
    http.patch("/v1/devices/dev-1", json={"labels": {"site": None}})
    first, second = read()
    assert (first.change, first.subject) == ("device.label", "device/dev-1")
    assert (first.before, first.after) == ('{"site":"berlin"}', '{"site":"paris"}')
    assert (second.before, second.after) == ('{"site":"paris"}', "{}")


@ON_BOTH_DATABASES
def test_every_attempt_that_is_refused_is_recorded_with_who_tried(
    http: httpx.Client, registry: Registry, read: Callable[[], list[AuditEntry]]
) -> None:
    http.delete("/v1/operators/eve")
    token = http.post("/v1/operators", json={"name": "eve", "role": "viewer"}).json()["token"]
    document = http.get("/openapi.json").json()
    read()
    for method, path, operation in each_operation(document):
        name = operation["operationId"]
        if method == "GET" or name in UNCHANGING | {"join"}:
            continue
        address = re.sub(r"\{\w+\}", "nothing", path)
        answer = http.request(method, address, json={}, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 403
        (row,) = read()
        assert (row.who, row.role, row.operation, row.outcome, row.change) == ("eve", "viewer", name, "refused", "")
        assert row.subject == f"{method} {address}"
        assert json.loads(row.after) == {"status": 403, "code": "forbidden"}
        assert row.request_id == answer.headers["x-request-id"]
    # what an admin may do and what can't be done; who is not known; what is no JSON; what may not even be read
    assert http.delete("/v1/devices/nobody").status_code == 404
    assert httpx.delete(f"{registry.url}/v1/devices/dev-1").status_code == 401
    assert http.post("/v1/profiles", content=b"{").status_code == 422
    assert http.get("/v1/audit", headers={"Authorization": f"Bearer {token}"}).status_code == 403
    assert http.post("/v1/join", json={"token": "shoal-op-secret-of-mine"}).status_code == 401
    told = [(row.who.split("-")[0], row.operation, json.loads(row.after)["code"]) for row in read()]
    assert told == [
        ("local", "retire_device", "not_found"),
        ("nobody", "retire_device", "unauthorized"),
        ("local", "add_profile", "invalid"),
        ("eve", "read_audit", "forbidden"),
        ("nobody", "join", "unauthorized"),
    ]
    assert http.get("/v1/devices/nobody").status_code == 404
    assert read() == [], "who only reads leaves no row"


def test_secret_is_in_no_row(http: httpx.Client, registry: Registry, world: None) -> None:  # noqa: ARG001
    name = f"a-{time.monotonic_ns()}"
    secrets = [
        http.post("/v1/tokens", json={}).json()["token"],
        http.post("/v1/operators", json={"name": name, "role": "viewer"}).json()["token"],
        registry.token,
    ]
    joined = http.post("/v1/join", json={"token": secrets[0], "profile": "pi-x", "device_id": "dev-3"})
    secrets.append(joined.json()["key"])
    with registry.catalogue.read() as connection:
        text = str(connection.execute(sa.select(tables.audit_log)).all())
    for secret in secrets:
        assert secret not in text


def test_strangers_can_not_fill_the_log(
    start_registry: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.api.gate.RECORDED_BURST", 5.0)
    monkeypatch.setattr("server.api.gate.RECORDED_PER_S", 0.001)
    own = start_registry()
    with httpx.Client(base_url=own.url, timeout=20) as stranger:
        for _ in range(30):
            assert stranger.delete("/v1/devices/dev-1").status_code == 401
    with httpx.Client(base_url=own.url, timeout=20, headers=own.login) as client:
        assert client.delete("/v1/devices/dev-1").status_code == 404
        rows = client.get("/v1/audit").json()
    refused = [row for row in rows if row["outcome"] == "refused"]
    assert len([row for row in refused if row["who"] == "nobody"]) == 5
    assert json.loads(refused[-1]["after"])["unrecorded_before"] == 25
