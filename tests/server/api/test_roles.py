"""Who gets in: a walk over every operation of the OpenAPI document, as nobody and in each role."""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from server.api.operations import each_operation
from server.audit.door import AuditedDatabase
from server.operators.accounts import add_operator
from server.operators.local import local_asker
from server.operators.roles import ROLES, Beside
from server.schemas.operators import OperatorRequest, Role
from tests.postgresql import ON_BOTH_DATABASES

Registry = Any
Operation = tuple[str, str, str]  # its id, method, path

# Of the device routes and of what nobody needs to be known for, by what they are: not by the table that is tested.
OPEN = {"get_health", "join"}
DEVICES = {"get_desired", "get_manifest", "get_object_url"}


def message_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["message"])


@pytest.fixture
def operations(http: httpx.Client) -> list[Operation]:
    """All that the document has, with names in the paths that name nothing."""
    document = http.get("/openapi.json").json()
    found = []
    for method, path, operation in each_operation(document):
        named = re.sub(r"\{sha256\}", "0" * 64, path)
        found.append((operation["operationId"], method, re.sub(r"\{\w+\}", "nothing", named)))
    assert len(found) > 40
    return found


@pytest.fixture
def as_role(registry: Registry) -> Iterator[Callable[[Role], httpx.Client]]:
    """A client in a role."""
    clients: list[httpx.Client] = []

    def client(role: Role) -> httpx.Client:
        name = f"{role}-{time.monotonic_ns()}"
        request = OperatorRequest(name=name, role=role)
        door = AuditedDatabase(registry.catalogue, local_asker("test"), time.time)
        token = add_operator(door, request, by="test", now=time.time()).token
        headers = {"Authorization": f"Bearer {token}"}
        clients.append(httpx.Client(base_url=registry.url, timeout=20, headers=headers))
        return clients[-1]

    yield client
    for one in clients:
        one.close()


def test_every_operation_has_a_role_and_the_document_says_it(http: httpx.Client, operations: list[Operation]) -> None:
    assert {operation for operation, _, _ in operations} == set(ROLES)
    document = http.get("/openapi.json").json()
    for _, _, operation in each_operation(document):
        name = operation["operationId"]
        wanted = ROLES[name]
        if name in OPEN:
            assert "security" not in operation
        else:
            assert operation["security"] == [{"device" if name in DEVICES else "operator": []}]
            assert operation["x-role"] == wanted.value
        assert {"401", "403", "429"} <= set(operation["responses"])


def test_nobody_gets_anything_but_health_and_joining(registry: Registry, operations: list[Operation]) -> None:
    with httpx.Client(base_url=registry.url, timeout=20) as stranger:
        for operation, method, path in operations:
            # what is sent is no JSON: who is not known hears nothing of it
            answer = stranger.request(method, path, content=b"{" if method != "GET" else None)
            if operation in OPEN:
                assert answer.status_code == (200 if operation == "get_health" else 422)
            else:
                assert (operation, answer.status_code) == (operation, 401)
                wanted = "Device" if operation in DEVICES else 'Bearer realm="shoal"'
                assert answer.headers["www-authenticate"] == wanted
        # nor does anybody learn what there is
        for path in ("/", "/docs", "/redoc", "/v1/nothing", "/v1/profiles/", "//v1/profiles", "/v1/../v1/profiles"):
            assert stranger.get(path).status_code == 401
        for method in ("OPTIONS", "HEAD", "TRACE", "PUT"):
            assert stranger.request(method, "/v1/profiles").status_code == 401


@ON_BOTH_DATABASES
def test_each_role_may_do_what_the_table_says_and_no_more(
    as_role: Callable[[Role], httpx.Client], operations: list[Operation]
) -> None:
    ranks = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
    for role, rank in ranks.items():
        client = as_role(role)
        assert client.get("/v1/whoami").json()["role"] == role
        for operation, method, path in operations:
            wanted = ROLES[operation]
            if isinstance(wanted, Beside) or operation == "sweep":
                continue
            answer = client.request(method, path, json={} if method in {"POST", "PATCH"} else None)
            refused = answer.status_code == 403
            assert (role, operation, refused) == (role, operation, rank < ranks[wanted])
            if refused:
                assert f"wants {'an admin' if wanted is Role.ADMIN else 'an operator'}" in message_of(answer)


def test_viewer_changes_nothing(as_role: Callable[[Role], httpx.Client], operations: list[Operation]) -> None:
    viewer = as_role(Role.VIEWER)
    for operation, method, path in operations:
        if method != "GET" and operation not in {"join", "forecast_rollout"}:
            assert (operation, viewer.request(method, path, json={}).status_code) == (operation, 403)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Basic YTpi",
        "Bearer x",
        "Bearer shoal-op-",
        "Bearer shoal-op-guess",
        "Device dev-1:key",
        "bearer\tx",
        "Bearer  x",
        "Bearer " + "a" * 20_000,
        "Bearer a.b.c",
        "Bearer \xff\xfe",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
    ],
)
def test_header_that_shows_nobody_is_401(registry: Registry, header: str) -> None:
    headers = [(b"authorization", header.encode("latin-1"))]
    assert httpx.get(f"{registry.url}/v1/profiles", headers=headers, timeout=20).status_code == 401


def test_two_headers_are_none(registry: Registry) -> None:
    login = registry.login["Authorization"].encode()
    headers = [(b"authorization", login), (b"authorization", login)]
    assert httpx.get(f"{registry.url}/v1/whoami", headers=headers, timeout=20).status_code == 401


def test_scheme_is_read_without_regard_to_case(registry: Registry) -> None:
    headers = {"Authorization": f"bEARER {registry.token}"}
    assert httpx.get(f"{registry.url}/v1/whoami", headers=headers, timeout=20).status_code == 200


def test_operator_is_made_rotated_and_revoked_and_each_takes_effect_at_once(http: httpx.Client) -> None:
    def status(token: str) -> int:
        return http.get("/v1/whoami", headers={"Authorization": f"Bearer {token}"}).status_code

    name = f"ada-{time.monotonic_ns()}"
    made = http.post("/v1/operators", json={"name": name, "role": "operator"})
    assert made.status_code == 201
    first = made.json()["token"]
    assert status(first) == 200
    taken = http.post("/v1/operators", json={"name": name, "role": "admin"})
    assert (taken.status_code, f"operator rotate {name}" in message_of(taken)) == (409, True)
    listed = http.get("/v1/operators").text
    assert name in listed
    assert first not in listed
    second = http.post(f"/v1/operators/{name}/rotation", json={}).json()["token"]
    assert (status(first), status(second)) == (401, 200)
    assert http.delete(f"/v1/operators/{name}").status_code == 204
    gone = http.get("/v1/whoami", headers={"Authorization": f"Bearer {second}"})
    assert (gone.status_code, "was revoked" in message_of(gone)) == (401, True)
    assert http.delete(f"/v1/operators/{name}").status_code == 404
    assert http.post(f"/v1/operators/{name}/rotation", json={}).status_code == 404
    again = http.post("/v1/operators", json={"name": name, "role": "viewer"})
    assert (again.status_code, status(second)) == (201, 401)


def test_token_ends_at_its_deadline(http: httpx.Client) -> None:
    name = f"short-{time.monotonic_ns()}"
    token = http.post("/v1/operators", json={"name": name, "role": "viewer", "valid_s": 0.001}).json()["token"]
    answer = http.get("/v1/whoami", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, "has expired" in message_of(answer)) == (401, True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "a", "role": "root"}, "role"),
        ({"name": "../a", "role": "admin"}, "1 to 63 letters"),
        ({"name": "a", "role": "admin", "valid_s": 1e9}, "valid_s"),
        ({"name": "a", "role": "admin", "valid_s": -1}, "valid_s"),
        ({"name": "a"}, "role is missing"),
        ({"name": "a", "role": "admin", "token": "mine"}, "token is unknown"),
    ],
)
def test_operator_that_can_not_be_is_one_sentence(http: httpx.Client, body: dict[str, Any], words: str) -> None:
    answer = http.post("/v1/operators", json=body)
    assert answer.status_code == 422
    assert words in message_of(answer)


def test_last_admin_can_not_be_revoked(start_registry: Callable[..., Registry]) -> None:
    own = start_registry()
    with httpx.Client(base_url=own.url, timeout=20, headers=own.login) as client:
        (local,) = client.get("/v1/operators").json()
        refused = client.delete(f"/v1/operators/{local['name']}")
        assert (refused.status_code, "last admin" in message_of(refused)) == (409, True)
        client.post("/v1/operators", json={"name": "short", "role": "admin", "valid_s": 0.001})
        assert client.delete(f"/v1/operators/{local['name']}").status_code == 409, "one that has expired does not count"
        client.post("/v1/operators", json={"name": "ada", "role": "admin"})
        assert client.delete(f"/v1/operators/{local['name']}").status_code == 204
        assert client.get("/v1/whoami").status_code == 401
