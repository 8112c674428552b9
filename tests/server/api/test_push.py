"""Pushing a version: what is accepted, what is refused, and that nothing is half registered."""

import asyncio
import http.client
import json
import pickle
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import sqlalchemy as sa

from server.api.slots import MAX_UPLOADS
from server.api.upload import PUSH, receive_upload
from server.database.tables import jobs
from server.errors import InvalidError

# The classes behind these fixtures live in a conftest, which a test can't import.
Registry = Any
Store = Any
Push = Callable[..., httpx.Response]


def message_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    message: str = error["message"]
    assert message.endswith((".", "?"))
    assert len(message) < 600
    return message


def job_count(registry: Registry) -> int:
    with registry.catalogue.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one())


def test_push_new_version_stores_the_bytes_and_asks_for_an_inspection(
    registry: Registry,
    push: Push,
    object_store: Store,
    http: httpx.Client,
    uploads: Path,
    pt2: bytes,
    npz: bytes,
) -> None:
    answer = push(train=npz)
    assert answer.status_code == 202
    job = http.get(f"/v1/jobs/{answer.json()['job_id']}").json()
    assert (job["kind"], job["state"], job["model"], job["version"]) == ("inspect", "queued", "net", "1")
    with registry.catalogue.read() as connection:
        request = connection.execute(sa.select(jobs.c.request)).scalar_one()
    assert object_store.get_bytes(request["source"]["sha256"]) == pt2
    assert object_store.get_bytes(request["data"]["sha256"]) == npz
    assert request["train"] == request["data"]
    assert request["form"]["metric"] == "top1"
    assert list(uploads.iterdir()) == []


def test_push_same_bytes_twice_gives_the_same_job(registry: Registry, push: Push) -> None:
    first, second = push(), push()
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert job_count(registry) == 1


@pytest.mark.parametrize("part", ["data", "form", "train"])
def test_push_same_version_other_content_is_a_conflict(
    registry: Registry,
    push: Push,
    npz: bytes,
    pt2: bytes,
    part: str,
) -> None:
    push()
    from_zip = npz.replace(b"\0\0\0\0\0\0\0\0", b"\0\0\0\0\0\0\0\1", 1)
    other: dict[str, Any] = {"data": from_zip, "form": {"task": "regression", "metric": "rmse"}, "train": npz}
    assert other["data"] != npz
    assert pt2
    answer = push(**{part: other[part]})
    assert answer.status_code == 409
    assert "push this under a new version" in message_of(answer)
    assert job_count(registry) == 1


def test_push_after_a_failed_inspection_is_a_new_job_with_any_content(
    push: Push,
    finish_job: Callable[..., None],
    http: httpx.Client,
) -> None:
    first = push().json()["job_id"]
    finish_job(first, error={"code": "bad_data", "message": "The labels are out of range."})
    refused = http.get("/v1/models/net/versions/1")
    assert refused.status_code == 404
    assert "labels are out of range" in message_of(refused)
    second = push(form={"task": "classification", "metric": "accuracy"})
    assert second.status_code == 202
    assert second.json()["job_id"] != first
    assert "still being inspected" in message_of(http.get("/v1/models/net/versions/1"))


@pytest.mark.parametrize(
    ("part", "content", "words"),
    [
        ("source", b"", "empty"),
        ("source", pickle.dumps({"weights": [1.0]}), "pickle"),
        ("source", b"just text", "in no format that is known here"),
        ("source", "truncated", "truncated or damaged"),
        ("source", "npz", "no torch.export archive"),
        ("data", b"x,y\n1,2\n", "no zip archive"),
        ("data", "pt2", "no .npz"),
        ("train", b"", "empty"),
        ("form", "{", "not JSON"),
        ("form", {"task": "poetry", "metric": "top1"}, "task is 'poetry'"),
        ("form", {"task": "regression"}, "metric is missing"),
        ("form", {"task": "regression", "metric": "rmse", "metrik": 1}, "metrik is unknown"),
    ],
)
def test_push_bad_part_is_one_sentence_and_leaves_nothing(
    registry: Registry,
    push: Push,
    uploads: Path,
    pt2: bytes,
    npz: bytes,
    part: str,
    content: object,
    words: str,
) -> None:
    named = {"truncated": pt2[: len(pt2) // 2], "npz": npz, "pt2": pt2}
    value = named.get(content, content) if isinstance(content, str) and part != "form" else content
    answer = push(**{part: value})
    assert answer.status_code == 422
    assert words in message_of(answer)
    assert job_count(registry) == 0
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a b", "a+b", "a%23b", "n" * 300, "%F0%9F%90%9F", "..%2Fetc", "a..b", ".hidden", "-x"]
)
def test_push_impossible_name_is_refused(registry: Registry, push: Push, name: str) -> None:
    for answer in (push(model=name), push(version=name)):
        assert answer.status_code in {404, 422}
        assert "1 to 63 letters" in message_of(answer) or "two dots" in message_of(answer)
    assert job_count(registry) == 0


def test_push_s3_down_registers_nothing(start_registry: Callable[..., Any], pt2: bytes, npz: bytes) -> None:
    down = start_registry(s3_endpoint="http://127.0.0.1:9")
    files = {"source": ("m", pt2), "data": ("d", npz)}
    form = {"form": '{"task": "regression", "metric": "rmse"}'}
    answer = push_to(down, form, files)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "S3" in message_of(answer)
    assert job_count(down) == 0


def test_push_larger_than_allowed_is_refused_while_it_arrives(
    start_registry: Callable[..., Any], pt2: bytes, npz: bytes
) -> None:
    small = start_registry(max_upload_bytes=100_000)
    files = {"source": ("m", pt2 + b"\0" * 200_000), "data": ("d", npz)}
    form = {"form": '{"task": "regression", "metric": "rmse"}'}
    answer = push_to(small, form, files)
    assert answer.status_code == 413
    assert "max_upload_bytes" in message_of(answer)
    assert list((small.settings.data_dir / "uploads").iterdir()) == []


def test_push_ten_megabytes_beyond_the_limit_still_gets_its_sentence(
    start_registry: Callable[..., Any], npz: bytes
) -> None:
    small = start_registry(max_upload_bytes=100_000)
    files = {"source": ("m", b"\0" * 10_000_000), "data": ("d", npz)}
    answer = push_to(small, {"form": "{}"}, files)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("application/json", b"{}", "multipart/form-data"),
        ("multipart/form-data", b"", "multipart/form-data"),
        ("multipart/form-data; boundary=x", b"garbage", "damaged"),
        ("multipart/form-data; boundary=x", b"", "too early"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="source"\r\n\r\nab',
            "too early",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="s"\r\n\r\nab\r\n--x--',
            "unknown",
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: text/plain\r\n\r\nab\r\n--x--", "unknown"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="form"\r\n\r\n{}\r\n' * 2 + b"--x--",
            "twice",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="form"\r\n\r\n{}\r\n--x--\r\n',
            "part source is missing",
        ),
    ],
)
def test_push_strange_body_is_one_sentence(http: httpx.Client, content_type: str, body: bytes, words: str) -> None:
    answer = http.post("/v1/models/net/versions/1", content=body, headers={"content-type": content_type})
    assert answer.status_code == 422
    assert words in message_of(answer)


def test_push_cut_in_the_middle_leaves_nothing(registry: Registry, uploads: Path) -> None:
    address = urlsplit(registry.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=10)
    connection.putrequest("POST", "/v1/models/net/versions/1")
    connection.putheader("Authorization", registry.login["Authorization"])
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(b'--x\r\nContent-Disposition: form-data; name="source"\r\n\r\nabc')
    connection.close()
    assert httpx.get(f"{registry.url}/v1/jobs", headers=registry.login).json() == []
    assert job_count(registry) == 0
    wait_until_empty(uploads)


def push_to(registry: Registry, form: dict[str, str], files: dict[str, tuple[str, bytes]]) -> httpx.Response:
    address = f"{registry.url}/v1/models/net/versions/1"
    return httpx.post(address, data=form, files=files, timeout=20, headers=registry.login)


def begin_push(registry: Registry, claimed_bytes: int) -> http.client.HTTPConnection:
    address = urlsplit(registry.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=20)
    connection.putrequest("POST", "/v1/models/net/versions/1")
    connection.putheader("Authorization", registry.login["Authorization"])
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(claimed_bytes))
    connection.endheaders(b'--x\r\nContent-Disposition: form-data; name="source"\r\n\r\nabc')
    return connection


def test_push_larger_than_the_free_disk_is_refused_before_it_arrives(start_registry: Callable[..., Any]) -> None:
    roomy = start_registry(max_upload_bytes=1 << 60)
    connection = begin_push(roomy, 1 << 60)
    answer = connection.getresponse()
    message = json.loads(answer.read())["error"]["message"]
    connection.close()
    assert answer.status == 503
    assert answer.getheader("Retry-After")
    assert message.startswith(f"The push has {1 << 60} bytes, but the registry's disk has ")
    assert "make room in its data folder" in message


def test_push_beyond_those_received_at_once_is_told_to_come_back_and_then_taken(
    start_registry: Callable[..., Any], pt2: bytes, npz: bytes
) -> None:
    busy = start_registry()
    folder = busy.settings.data_dir / "uploads"
    under_way = [begin_push(busy, 1_000_000) for _ in range(MAX_UPLOADS)]
    end_s = time.monotonic() + 10
    while not folder.is_dir() or len(list(folder.iterdir())) < MAX_UPLOADS:
        assert time.monotonic() < end_s
        time.sleep(0.02)

    def push_one() -> httpx.Response:
        files = {"source": ("m", pt2), "data": ("d", npz)}
        form = {"form": '{"task": "regression", "metric": "rmse"}'}
        return push_to(busy, form, files)

    refused = push_one()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
    assert "push again in a minute" in message_of(refused)
    for connection in under_way:
        connection.close()
    wait_until_empty(folder)
    assert push_one().status_code == 202


def test_upload_that_stalls_gives_its_slot_back(tmp_path: Path) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield b"--x"
        await asyncio.sleep(60)

    receiving = receive_upload(
        "multipart/form-data; boundary=x", silent(), tmp_path, PUSH, max_file_bytes=1000, stall_s=0.05
    )
    with pytest.raises(InvalidError, match=r"stalled for 0\.05 s"):
        asyncio.run(receiving)


def wait_until_empty(folder: Path) -> None:
    end_s = time.monotonic() + 5
    while folder.is_dir() and any(folder.iterdir()):
        assert time.monotonic() < end_s
        time.sleep(0.02)
