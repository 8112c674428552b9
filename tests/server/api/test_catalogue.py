"""Profiles, versions, builds and jobs over HTTP."""

import json
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import sqlalchemy as sa

from server.database.tables import choices, jobs, variants

# The class behind this fixture lives in a conftest, which a test can't import.
Registry = Any
OPERATIONS = [
    "get_health",
    "start_report",
    "get_report",
    "get_report_files",
    "add_profile",
    "list_profiles",
    "get_profile",
    "push_version",
    "list_models",
    "retire_model",
    "bring_model_back",
    "retire_version",
    "bring_version_back",
    "list_versions",
    "get_version",
    "build_variants",
    "list_variants",
    "list_choices",
    "start_search",
    "get_recipes",
    "get_search",
    "list_jobs",
    "get_job",
    "create_token",
    "list_tokens",
    "revoke_token",
    "approve_claim",
    "confirm_certificate",
    "enrol",
    "get_root",
    "list_claims",
    "refuse_claim",
    "renew_certificate",
    "revoke_device",
    "list_devices",
    "get_device",
    "label_device",
    "retire_device",
    "ask_device",
    "get_inquiry",
    "get_device_log",
    "get_bundle",
    "get_desired",
    "get_manifest",
    "get_object_url",
    "start_rollout",
    "forecast_rollout",
    "list_rollouts",
    "get_rollout",
    "command_rollout",
    "get_telemetry",
    "sweep",
]
Profile = Callable[..., dict[str, Any]]


def error_of(answer: httpx.Response) -> tuple[str, str]:
    error = answer.json()["error"]
    return error["code"], error["message"]


def test_profile_same_document_twice_is_200_and_another_is_a_conflict(http: httpx.Client, profile: Profile) -> None:
    assert http.post("/v1/profiles", json=profile()).status_code == 201
    assert http.post("/v1/profiles", json=profile()).status_code == 200
    other = http.post("/v1/profiles", json=profile(ram_bytes=1 << 31))
    assert other.status_code == 409
    assert "under a new name" in error_of(other)[1]
    assert [found["ram_bytes"] for found in http.get("/v1/profiles").json()] == [1 << 30]
    assert http.get("/v1/profiles/pi-x").json()["cpu"]["cores"] == 4
    assert http.get("/v1/profiles/nobody").status_code == 404


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ram_bytes": -5}, "ram_bytes is -5"),
        ({"npu": {"kind": "warp-core"}}, "npu.kind is 'warp-core'"),
        ({"name": "../etc"}, "1 to 63 letters"),
        ({"name": "a" * 300}, "1 to 63 letters"),
        ({"name": "a..b"}, "two dots"),
        ({"colour": "red"}, "colour is unknown"),
        ({"threads": 64}, "the CPU has 4 cores"),
        ({"runtimes": []}, "runtimes"),
        ({"cpu": {"cores": 2}}, "cpu.model is missing"),
    ],
)
def test_profile_that_cannot_be_is_one_sentence(
    http: httpx.Client, profile: Profile, changes: dict[str, Any], words: str
) -> None:
    answer = http.post("/v1/profiles", json=profile(**changes))
    assert answer.status_code == 422
    code, message = error_of(answer)
    assert code == "invalid"
    assert words in message
    assert "\n" not in message
    assert len(message) < 300
    assert http.get("/v1/profiles").json() == []


def test_body_that_is_no_json_or_too_large_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/profiles", content=b"{nope", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "not JSON" in error_of(answer)[1]
    untyped = http.post("/v1/profiles", content=b"{}", headers={"content-type": "text/plain"})
    assert untyped.status_code == 422
    assert error_of(untyped)[1] == (
        "the body is b'{}': it should be a JSON object, sent with the content type application/json."
    )
    large = http.post("/v1/profiles", content=b" " * 2_000_000, headers={"content-type": "application/json"})
    assert large.status_code == 413
    chunked = http.post("/v1/profiles", content=iter([b" " * 700_000] * 2))
    assert chunked.status_code == 413
    multipart = http.post("/v1/enrolment", files={"x": b" " * 2_000_000})
    assert multipart.status_code == 413
    assert error_of(chunked)[0] == "too_large"


@pytest.mark.parametrize("path", ["/v1/profiles", "/v1/rollouts", "/v1/enrolment"])
def test_body_that_is_announced_too_large_is_refused_before_it_comes(registry: Registry, path: str) -> None:
    address = urlsplit(registry.url)
    connection = HTTPConnection(str(address.hostname), address.port, timeout=20)
    with closing(connection):
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(1 << 30))
        connection.endheaders()
        answer = connection.getresponse()
        error = json.loads(answer.read())["error"]
    assert (answer.status, answer.getheader("Connection")) == (413, "close")
    assert error == {
        "code": "too_large",
        "message": "The body is larger than 1048576 bytes, which no request here needs.",
    }


def test_unknown_address_and_method_are_documents_too(http: httpx.Client) -> None:
    assert error_of(http.get("/v1/nothing"))[0] == "no_such_address"
    assert error_of(http.delete("/v1/profiles"))[0] == "method_not_allowed"


def test_build_every_profile_once_however_often_it_is_asked(
    http: httpx.Client, profile: Profile, add_version: Callable[..., None], registry: Registry
) -> None:
    add_version()
    path = "/v1/models/net/versions/1/variants"
    assert error_of(http.post(path, json={}))[1].startswith("No profile is registered")
    for name in ("pi-x", "pi-y"):
        http.post("/v1/profiles", json=profile(name=name))
    first, second = http.post(path, json={}), http.post(path, json={"profiles": ["pi-y", "pi-x", "pi-x"]})
    assert first.status_code == 202
    assert first.json() == second.json()
    (job,) = first.json()
    assert (job["kind"], job["state"]) == ("build", "queued")
    with registry.catalogue.read() as connection:
        request = connection.execute(sa.select(jobs.c.request)).scalar_one()
    rest = {"recipes": [], "own_recipes": [], "device": "cpu", "measure_again": False}
    assert request == {"profiles": ["pi-x", "pi-y"], **rest}
    assert http.post(path, json={"profiles": ["pi-x"]}).json()[0]["job_id"] != job["job_id"]
    unknown = http.post(path, json={"profiles": ["pi-z"]})
    assert unknown.status_code == 404
    assert "registered are pi-x, pi-y" in error_of(unknown)[1]


def test_build_again_after_done_or_failed_is_a_new_job(
    http: httpx.Client,
    profile: Profile,
    add_version: Callable[..., None],
    finish_job: Callable[..., None],
    registry: Registry,
) -> None:
    add_version()
    http.post("/v1/profiles", json=profile())
    path = "/v1/models/net/versions/1/variants"

    def ask(*, again: bool = False) -> str:
        return str(http.post(path, json={"again": again}).json()[0]["job_id"])

    first = ask()
    second = ask(again=True)
    assert second != first, "the one that is queued may take figures that were measured before"
    assert ask(again=True) == second
    with registry.catalogue.read() as connection:
        rows = connection.execute(sa.select(jobs.c.job_id, jobs.c.request)).all()
    requests = {row.job_id: row.request for row in rows}
    assert (requests[first]["measure_again"], requests[second]["measure_again"]) == (False, True)
    finish_job(first)
    assert ask() == first
    finish_job(second)
    third = ask(again=True)
    assert third not in {first, second}
    finish_job(third, error={"code": "job_crashed", "message": "Out of memory."})
    assert ask() == first
    failed = http.get(f"/v1/jobs/{third}").json()
    assert (failed["state"], failed["error"]["message"]) == ("failed", "Out of memory.")
    assert [job["job_id"] for job in http.get("/v1/jobs", params={"model": "net"}).json()] == [third, second, first]
    assert http.get("/v1/jobs", params={"limit": 1}).json()[0]["job_id"] == third


def test_build_of_a_version_nobody_pushed_says_so(http: httpx.Client) -> None:
    answer = http.post("/v1/models/net/versions/9/variants", json={})
    assert answer.status_code == 404
    assert "There is no model net" in error_of(answer)[1]
    assert http.get("/v1/models/net/versions").status_code == 404
    assert http.get("/v1/models").json() == []
    assert http.get("/v1/jobs/nothing").status_code == 404


def test_versions_variants_and_choices_are_shown_as_the_workers_wrote_them(
    http: httpx.Client, add_version: Callable[..., None], registry: Registry
) -> None:
    add_version()
    add_version(version="2")
    common = {"model": "net", "version": "1", "created_at": 1.0}
    names = {"variant_id": "v-a", "recipe": "int8", "runtime": "litert", "delegate": "none", "verdict": "fits"}
    document = {**common, **names, "profile": "pi-x", "chosen": False, "raw_bytes": 12}
    document["steps"] = [{"step": "compile", "seconds": 1.0, "summary": "done", "layers": {"a": "on the NPU"}}]
    refusal = {"limit": "ram_bytes", "allowed": 1.0, "nearest": 2.0, "sentence": "It needs 2 B, 1 B is allowed."}
    with registry.catalogue.write() as connection:
        for profile_name, chosen in (("pi-x", True), ("pi-y", False)):
            row = {**common, **names, "profile": profile_name, "chosen": chosen, "document": document}
            connection.execute(sa.insert(variants).values(row))
        connection.execute(sa.insert(choices).values(**common, profile="pi-x", variant_id="v-a"))
        connection.execute(sa.insert(choices).values(**common, profile="pi-y", refusal=refusal))
    (found,) = http.get("/v1/models/net/versions/1/variants", params={"profile": "pi-x"}).json()
    assert (found["chosen"], found["raw_bytes"], found["steps"]) == (True, 12, [])
    (found,) = http.get("/v1/models/net/versions/1/variants", params={"profile": "pi-x", "steps": True}).json()
    assert [(one["summary"], one["layers"]) for one in found["steps"]] == [("done", {"a": "on the NPU"})]
    assert len(http.get("/v1/models/net/versions/1/variants").json()) == 2
    chosen_one, refused_one = http.get("/v1/models/net/versions/1/choices").json()
    assert (chosen_one["variant_id"], chosen_one["refusal"]) == ("v-a", None)
    assert refused_one["refusal"]["sentence"] == refusal["sentence"]
    assert {version["version"] for version in http.get("/v1/models/net/versions").json()} == {"1", "2"}
    assert http.get("/v1/models/net/versions/2").json()["parameters"] == 6


@pytest.mark.usefixtures("all_work")
def test_health_of_a_whole_registry_is_ok(http: httpx.Client) -> None:
    healthy = http.get("/v1/health").json()
    assert healthy["status"] == "ok"
    assert {healthy[part] for part in ("database", "objects", "broker")} == {"ok"}
    assert set(healthy["processes"].values()) == {"ok"}


def test_health_without_s3_and_broker_is_degraded_and_still_answers(start_registry: Callable[..., Any]) -> None:
    down = start_registry(s3_endpoint="http://127.0.0.1:9", mqtt_url="mqtt://127.0.0.1:9")
    answer = httpx.get(f"{down.url}/v1/health", timeout=10)
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "degraded"
    assert health["database"] == "ok"
    assert "S3" in health["objects"]
    assert "broker" in health["broker"]


def test_database_that_is_damaged_is_503_without_internals(start_registry: Callable[..., Any]) -> None:
    own = start_registry()
    own.catalogue.close()
    for suffix in ("", "-wal", "-shm"):
        path = own.settings.data_dir / f"registry.db{suffix}"
        path.unlink(missing_ok=True)
    (own.settings.data_dir / "registry.db").write_bytes(b"garbage " * 1000)
    answer = httpx.get(f"{own.url}/v1/profiles", timeout=20)
    assert answer.status_code == 503
    code, message = error_of(answer)
    assert code == "database_unavailable"
    assert "SELECT" not in message


def test_openapi_document_has_every_operation_by_a_stable_name(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    operations = {
        operation["operationId"]: operation for methods in document["paths"].values() for operation in methods.values()
    }
    assert sorted(operations) == sorted(OPERATIONS)
    for operation in operations.values():
        assert "ErrorDocument" in str(operation["responses"]["422"])
    assert "multipart/form-data" in operations["push_version"]["requestBody"]["content"]


def test_fault_of_ours_is_500_without_internals(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_database: object) -> None:
        raise RuntimeError("a secret of the code")

    monkeypatch.setattr("server.catalogue.profiles.list_profiles", fail)
    answer = http.get("/v1/profiles")
    assert answer.status_code == 500
    code, message = error_of(answer)
    assert code == "internal"
    assert "secret" not in message
