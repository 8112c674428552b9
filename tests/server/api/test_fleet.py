"""Tokens, joining, devices and what a device may fetch, over HTTP."""

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.database.tables import desired, device_states, devices, join_tokens, variants
from tests import certificates
from tests.postgresql import ON_BOTH_DATABASES
from tests.server.manifests import manifest_of

pytestmark = ON_BOTH_DATABASES

# The classes behind these fixtures live in a conftest, which a test can't import.
Registry = Any
Store = Any
Profile = Callable[..., dict[str, Any]]


def message_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


@pytest.fixture
def token(http: httpx.Client, profile: Profile) -> Callable[..., str]:
    """Make a token."""
    http.post("/v1/profiles", json=profile())

    def make(**request: object) -> str:
        answer = http.post("/v1/tokens", json=request)
        assert answer.status_code == 201
        return str(answer.json()["token"])

    return make


@pytest.fixture
def joined(http: httpx.Client, token: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """Join as a device."""

    def join(device_id: str = "dev-1", **request: object) -> dict[str, Any]:
        body = certificates.body(token(), **{"profile": "pi-x", "device_id": device_id, **request})
        answer = http.post("/v1/enrolment", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    return join


def test_join_gives_an_identity_once(http: httpx.Client, token: Callable[..., str], registry: Registry) -> None:
    secret = token(profile="pi-x", labels={"site": "berlin", "ring": "canary"})
    request = certificates.body(secret, labels={"ring": "mine", "floor": "2"}, facts={"kernel": "6.1"})
    answer = http.post("/v1/enrolment", json=request)
    assert answer.status_code == 201
    identity = answer.json()
    assert identity["device_id"].startswith("pi-x-")
    assert (identity["profile"], identity["storage_bytes"], identity["ram_bytes"]) == ("pi-x", 1 << 28, 1 << 30)
    assert identity["mqtt_url"] == registry.settings.mqtt_url
    assert identity["registry_url"] == registry.url
    assert identity["epoch"] > 1_600_000_000
    assert re.fullmatch(r"[0-9a-f]{64}", identity["key"])
    device = http.get(f"/v1/devices/{identity['device_id']}").json()
    assert device["labels"] == {"site": "berlin", "ring": "canary", "floor": "2"}
    assert device["presence"] == "never"
    again = http.post("/v1/enrolment", json={**request, "request": certificates.request_of()})
    assert again.status_code == 401
    assert "used already" in message_of(again)
    (listed,) = http.get("/v1/tokens").json()
    assert listed["device_id"] == identity["device_id"]
    assert secret not in http.get("/v1/tokens").text
    with registry.catalogue.read() as connection:
        stored = str(connection.execute(sa.select(join_tokens)).all() + connection.execute(sa.select(devices)).all())
    assert secret not in stored
    assert identity["key"] not in stored


def test_join_by_many_with_one_token_lets_one_in(
    http: httpx.Client, token: Callable[..., str], registry: Registry
) -> None:
    secret = token()

    def join(number: int) -> int:
        body = certificates.body(secret, profile="pi-x", device_id=f"dev-{number}")
        return httpx.post(f"{registry.url}/v1/enrolment", json=body, timeout=20).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(join, range(8)))
    assert statuses == [201] + [401] * 7
    assert len(http.get("/v1/devices").json()) == 1


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"token": "shoal-wrong-token"}, 401, "unknown or was revoked"),
        ({"profile": "nobody"}, 404, "no profile nobody"),
        ({"profile": None}, 422, "names a profile"),
        ({"device_id": "../x"}, 422, "1 to 63 letters"),
        ({"device_id": "a/b"}, 422, "1 to 63 letters"),
        ({"device_id": "d" * 64}, 422, "1 to 63 letters"),
        ({"labels": {"a b": "c"}}, 422, "labels"),
        ({"labels": {f"k{n}": "v" for n in range(40)}}, 422, "labels"),
        ({"facts": {"x": "y" * 1000}}, 422, "facts"),
        ({"extra": 1}, 422, "extra is unknown"),
    ],
)
def test_join_that_cannot_be_is_one_sentence_and_keeps_the_token(
    http: httpx.Client, token: Callable[..., str], changes: dict[str, Any], status: int, words: str
) -> None:
    secret = token()
    request = certificates.body(secret, profile="pi-x", device_id="dev-1")
    refused = http.post("/v1/enrolment", json={**request, **changes})
    assert refused.status_code == status
    assert words in message_of(refused)
    assert http.get("/v1/devices").json() == []
    assert http.post("/v1/enrolment", json=request).status_code == 201


def test_join_with_a_taken_id_is_a_conflict_until_it_is_removed(
    http: httpx.Client, joined: Callable[..., dict[str, Any]], token: Callable[..., str]
) -> None:
    first = joined("dev-1")
    request = certificates.body(token(), profile="pi-x", device_id="dev-1")
    taken = http.post("/v1/enrolment", json=request)
    assert taken.status_code == 409
    assert "exists already" in message_of(taken)
    assert http.delete("/v1/devices/dev-1").status_code == 204
    assert http.get("/v1/devices/dev-1").status_code == 404
    assert http.delete("/v1/devices/dev-1").status_code == 404
    proof = {"Authorization": f"Device dev-1:{first['key']}"}
    assert http.get("/v1/device/desired", headers=proof).status_code == 401
    second = http.post("/v1/enrolment", json=request)
    assert second.status_code == 201
    assert second.json()["key"] != first["key"]
    assert http.get("/v1/device/desired", headers=proof).status_code == 401


def test_join_expired_or_revoked_token_is_refused(http: httpx.Client, token: Callable[..., str]) -> None:
    secret = token(valid_s=0.001)
    expired = http.post("/v1/enrolment", json=certificates.body(secret, profile="pi-x"))
    assert expired.status_code == 401
    assert "expired" in message_of(expired)
    other = token()
    for listed in http.get("/v1/tokens").json():
        assert http.delete(f"/v1/tokens/{listed['token_id']}").status_code == 204
    assert http.post("/v1/enrolment", json=certificates.body(other, profile="pi-x")).status_code == 401
    assert http.delete("/v1/tokens/nothing").status_code == 404


def test_join_another_profile_than_the_token_allows_is_refused(
    http: httpx.Client, token: Callable[..., str], profile: Profile
) -> None:
    http.post("/v1/profiles", json=profile(name="pi-y"))
    secret = token(profile="pi-x")
    refused = http.post("/v1/enrolment", json=certificates.body(secret, profile="pi-y"))
    assert refused.status_code == 422
    assert "for devices of profile pi-x" in message_of(refused)


def test_join_with_a_well_known_profile_registers_it(http: httpx.Client, token: Callable[..., str]) -> None:
    answer = http.post("/v1/enrolment", json=certificates.body(token(), profile="pi-4"))
    assert answer.status_code == 201
    assert http.get("/v1/profiles/pi-4").json()["arch"] == "aarch64"


def test_devices_are_listed_by_selector_and_labelled(
    http: httpx.Client, joined: Callable[..., dict[str, Any]], registry: Registry
) -> None:
    for number, site in enumerate(("berlin", "paris", "berlin", "rome")):
        joined(f"dev-{number}", labels={"site": site})
    with registry.catalogue.write() as connection:
        # the last one was heard, but its birth was lost
        for number, (online, seen) in enumerate(((True, 4e9), (True, 1.0), (False, 4e9), (False, 4e9))):
            session_id = None if number == 3 else "a" * 32
            row = {"device_id": f"dev-{number}", "session_id": session_id, "online": online, "last_seen_at": seen}
            connection.execute(sa.insert(device_states).values(row))

    def label(zone: str) -> httpx.Response:
        return http.patch("/v1/devices/dev-0", json={"labels": {"tz": zone}})

    assert label("Europe/Berln").status_code == 422
    assert "no time zone" in str(label("Europe/Berln").json()["error"]["message"])
    assert label("Europe/Berlin").json()["labels"] == {"site": "berlin", "tz": "Europe/Berlin"}

    def found(selector: str) -> list[str]:
        answer = http.get("/v1/devices", params={"selector": selector})
        return [device["device_id"] for device in answer.json()]

    assert found("") == ["dev-0", "dev-1", "dev-2", "dev-3"]
    assert found("site=berlin") == ["dev-0", "dev-2"]
    assert found("site!=berlin,profile=pi-x") == ["dev-1", "dev-3"]
    presences = [device["presence"] for device in http.get("/v1/devices").json()]
    assert presences == ["online", "unknown", "offline", "online"]
    bad = http.get("/v1/devices", params={"selector": "site"})
    assert bad.status_code == 422
    assert "KEY=VALUE" in message_of(bad)
    changed = http.patch("/v1/devices/dev-1", json={"labels": {"site": None, "ring": "canary"}})
    assert changed.json()["labels"] == {"ring": "canary"}
    assert http.patch("/v1/devices/dev-9", json={"labels": {}}).status_code == 404
    many = {f"k{number}": "v" for number in range(32)}
    assert "at most 32" in message_of(http.patch("/v1/devices/dev-1", json={"labels": many}))
    assert http.get("/v1/devices/dev-1").json()["labels"] == {"ring": "canary"}


@pytest.mark.parametrize(
    "proof", [None, "", "Device", "Device dev-1", "Device dev-1:wrong", "Bearer x", "Device ghost:x"]
)
def test_device_without_proof_gets_nothing(
    http: httpx.Client, joined: Callable[..., dict[str, Any]], proof: str | None
) -> None:
    joined("dev-1")
    headers = {} if proof is None else {"Authorization": proof}
    for path in ("desired", f"manifests/{'0' * 64}", f"objects/{'0' * 64}"):
        answer = http.get(f"/v1/device/{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Device"


def test_device_fetches_what_its_desired_state_names_and_nothing_else(
    http: httpx.Client, joined: Callable[..., dict[str, Any]], registry: Registry, object_store: Store
) -> None:
    identities = [joined("dev-1"), joined("dev-2")]
    proofs = [{"Authorization": f"Device {who['device_id']}:{who['key']}"} for who in identities]
    content = b"the bytes of a variant " * 1000
    manifest = manifest_of(content).model_dump_json().encode()
    object_sha, manifest_sha = (object_store.put_bytes(data).sha256 for data in (content, manifest))
    # built again since the device was given it: the table of variants names another manifest
    newest = object_store.put_bytes(manifest_of(content, recipe="built-again").model_dump_json().encode()).sha256
    nothing_yet = http.get("/v1/device/desired", headers=proofs[0]).json()
    assert (nothing_yet["generation"], nothing_yet["deployments"]) == (0, [])
    assert nothing_yet["epoch"] == identities[0]["epoch"]
    wanted = {
        "v": 1,
        "epoch": 7,
        "generation": 3,
        "deployments": [
            {
                "deployment_id": "dep-1",
                "model": "net",
                "version": "1",
                "variant_id": "v-a",
                "manifest_sha256": manifest_sha,
                "manifest_bytes": len(manifest),
            }
        ],
    }
    variant = {
        "model": "net",
        "version": "1",
        "profile": "pi-x",
        "variant_id": "v-a",
        "recipe": "int8",
        "runtime": "litert",
        "delegate": "none",
        "verdict": "fits",
        "chosen": True,
        "manifest_sha256": newest,
        "object_sha256": object_sha,
        "document": {},
        "created_at": 1.0,
    }
    with registry.catalogue.write() as connection:
        row = {"device_id": "dev-1", "epoch": 7, "generation": 3, "document": wanted, "updated_at": 1.0}
        connection.execute(sa.insert(desired).values(row))
        connection.execute(sa.insert(variants).values(variant))
    assert http.get("/v1/device/desired", headers=proofs[0]).json()["generation"] == 3
    fetched = http.get(f"/v1/device/manifests/{manifest_sha}", headers=proofs[0])
    assert fetched.content == manifest
    address = http.get(f"/v1/device/objects/{object_sha}", headers=proofs[0]).json()
    assert httpx.get(address["url"], headers={"Range": "bytes=4-8"}).content == content[4:9]
    assert hashlib.sha256(httpx.get(address["url"]).content).hexdigest() == object_sha
    for path in (f"manifests/{manifest_sha}", f"objects/{object_sha}"):
        assert http.get(f"/v1/device/{path}", headers=proofs[1]).status_code == 404
    assert http.get(f"/v1/device/manifests/{newest}", headers=proofs[0]).status_code == 404
    assert http.get(f"/v1/device/objects/{manifest_sha}", headers=proofs[0]).status_code == 404
    assert http.get(f"/v1/device/manifests/{object_sha}", headers=proofs[0]).status_code == 404
    assert http.get("/v1/device/objects/short", headers=proofs[0]).status_code == 422


def test_join_facts_with_odd_characters_are_kept(
    http: httpx.Client, joined: Callable[..., dict[str, Any]], registry: Registry
) -> None:
    kernel = "6.1\0 \N{SNOWMAN} '; DROP TABLE devices; --"
    joined(facts={"kernel": kernel})
    assert http.get("/v1/devices/dev-1").status_code == 200
    with registry.catalogue.read() as connection:
        assert connection.execute(sa.select(devices.c.facts)).scalar_one()["kernel"] == kernel
