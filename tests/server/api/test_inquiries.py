"""Questions to devices over HTTP, and the bundle that comes of them."""

import io
import json
import tarfile
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from edge_agent.protocol.inquiry import Diagnosis, LogLevel, LogLine, LogTail, pack, parts_of
from edge_agent.protocol.messages import encode
from server.database.tables import decisions, deployments, inquiry_answers
from server.inquiries.inquirer import ASKED, Inquirer
from tests import certificates
from tests.postgresql import ON_BOTH_DATABASES

pytestmark = ON_BOTH_DATABASES

# The classes behind these fixtures live in a conftest, which a test can't import.
Registry = Any
Profile = Callable[..., dict[str, Any]]


@pytest.fixture
def device(http: httpx.Client, profile: Profile) -> str:
    """A device that joined and was never heard."""
    http.post("/v1/profiles", json=profile())
    token = http.post("/v1/tokens", json={}).json()["token"]
    answer = http.post("/v1/enrolment", json=certificates.body(token, profile="pi-x", device_id="dev-1"))
    assert answer.status_code == 201
    return "dev-1"


@pytest.fixture
def answer(registry: Registry) -> Callable[[str, LogTail | Diagnosis], None]:
    """Let the device answer, as the delivery takes it in."""

    def say(inquiry_id: str, document: LogTail | Diagnosis) -> None:
        nobody: Any = None  # what is only taken in needs no connection
        inquirer = Inquirer(registry.catalogue, nobody, clock=time.time)
        row = {"inquiry_id": inquiry_id, "state": ASKED, "active_at": 0.0, "detail": ""}
        with registry.catalogue.write() as connection:
            connection.execute(sa.insert(inquiry_answers).values(row))
        for part in parts_of(inquiry_id, pack(document)):
            assert inquirer.take("dev-1", encode(part)) is None

    return say


def ask(http: httpx.Client, **form: object) -> dict[str, Any]:
    response = http.post("/v1/devices/dev-1/inquiries", json=form)
    assert response.status_code == 202, response.text
    return dict(response.json())


def files_of(content: bytes) -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        texts = {name.partition("/")[2]: (tar.extractfile(name) or io.BytesIO()).read() for name in tar.getnames()}
    return {name: json.loads(text) if name.endswith(".json") else text.decode() for name, text in texts.items()}


def test_log_of_a_device_is_read_once_it_has_answered(
    http: httpx.Client, device: str, answer: Callable[[str, LogTail], None]
) -> None:
    asked = ask(http, kind="log", lines=3)
    assert (asked["device_id"], asked["state"], asked["presence"]) == (device, "waiting", "never")
    path = f"/v1/inquiries/{asked['inquiry_id']}"
    assert http.get(f"{path}/log").status_code == 409
    tail = LogTail(lines=(LogLine(number=1, at=2.0, level=LogLevel.ERROR, text="boom"),), last_number=1)
    answer(asked["inquiry_id"], tail)
    assert http.get(path).json()["state"] == "answered"
    assert http.get(f"{path}/log").json() == tail.model_dump(mode="json")
    refused = http.get(f"{path}/bundle")
    assert refused.status_code == 409
    assert "asks device dev-1 for its log" in refused.json()["error"]["message"]


def test_bundle_has_what_the_device_says_and_what_the_registry_knows(
    http: httpx.Client, device: str, answer: Callable[[str, Diagnosis], None], registry: Registry
) -> None:
    row = {
        "deployment_id": "d1",
        "rollout_id": "r1",
        "device_id": device,
        "wave": 0,
        "profile": "pi-x",
        "model": "net",
        "version": "1",
        "state": "failed",
        "reason": "x",
        "detail": "",
        "updated_at": 5.0,
    }
    decision = {"rollout_id": "r1", "at": 6.0, "action": "pause", "sentence": "It paused.", "numbers": {"n": 1}}
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(deployments).values(row))
        connection.execute(sa.insert(decisions).values(decision))
    asked = ask(http, kind="diagnosis")
    assert http.get(f"/v1/inquiries/{asked['inquiry_id']}/bundle").status_code == 409
    answer(asked["inquiry_id"], Diagnosis(device_id=device, machine={"load_1_min": 1.5}))

    response = http.get(f"/v1/inquiries/{asked['inquiry_id']}/bundle")

    assert response.headers["content-type"] == "application/gzip"
    files = files_of(response.content)
    assert files["device/machine.json"] == {"load_1_min": 1.5}
    assert files["registry/device.json"]["device"]["profile"] == "pi-x"
    assert "key_sha256" not in response.content.decode(errors="ignore")
    assert "key_sha256" not in json.dumps(files)
    assert files["registry/deployments.json"][0]["state"] == "failed"
    assert files["registry/decisions.json"][0]["sentence"] == "It paused."
    assert files["registry/inquiry.json"]["state"] == "answered"
    assert "README.txt" in files


def test_bundle_of_a_device_that_is_silent_has_the_registrys_part(http: httpx.Client, device: str) -> None:
    asked = ask(http, kind="diagnosis", wait_s=0.01)
    time.sleep(0.05)
    assert http.get(f"/v1/inquiries/{asked['inquiry_id']}").json()["state"] == "expired"
    files = files_of(http.get(f"/v1/inquiries/{asked['inquiry_id']}/bundle").content)
    assert f"Device {device} has joined and was never heard" in files["device/unanswered.txt"]
    assert files["registry/desired.json"] is None or files["registry/desired.json"]["device_id"] == device
    assert "device/agent.json" not in files


def test_answer_that_can_not_be_used_is_a_bad_gateway(http: httpx.Client, device: str, registry: Registry) -> None:
    asked = ask(http, kind="log")
    row = {"inquiry_id": asked["inquiry_id"], "state": "answered", "active_at": 0.0, "detail": "", "content": b"?"}
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(inquiry_answers).values(row))
    response = http.get(f"/v1/inquiries/{asked['inquiry_id']}/log")
    assert response.status_code == 502
    assert f"What device {device} has sent can't be used" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"kind": "shell"}, "kind is 'shell'"),
        ({"kind": "log", "lines": 100_000}, "lines is 100000"),
        ({"kind": "log", "level": "loud"}, "level is 'loud'"),
        ({"kind": "log", "wait_s": 1e9}, "wait_s is"),
        ({"kind": "log", "colour": "red"}, "colour is unknown"),
    ],
)
def test_question_that_does_not_fit_is_refused(
    http: httpx.Client, device: str, form: dict[str, Any], words: str
) -> None:
    response = http.post(f"/v1/devices/{device}/inquiries", json=form)
    assert response.status_code == 422
    assert words in response.json()["error"]["message"]


def test_question_to_nobody_is_not_found(http: httpx.Client) -> None:
    assert http.post("/v1/devices/nobody/inquiries", json={"kind": "log"}).status_code == 404
    assert http.get("/v1/inquiries/nothing").status_code == 404
