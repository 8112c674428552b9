import hashlib
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

import pytest

from server.errors import (
    DigestMismatchError,
    ObjectNotFoundError,
    SettingsError,
    StorageRefusedError,
    StorageUnavailableError,
)
from server.settings import RegistrySettings
from server.storage import S3ObjectStore
from server.storage.s3 import object_key
from tests.server.conftest import S3Server
from tests.server.slow_s3 import slow_writes

ABSENT = "0" * 64


def store_at(endpoint: str, secret_key: str = "x" * 20, access_key: str = "key") -> S3ObjectStore:
    return S3ObjectStore(
        endpoint=endpoint,
        bucket="shoal",
        access_key=access_key,
        secret_key=secret_key,
        region="us-east-1",
        read_timeout_s=1.0,
    )


def test_put_bytes_twice_stores_once(object_store: S3ObjectStore) -> None:
    content = os.urandom(1000)
    first, second = object_store.put_bytes(content), object_store.put_bytes(content)
    assert first.sha256 == second.sha256 == hashlib.sha256(content).hexdigest()
    assert (first.created, second.created) == (True, False)
    assert object_store.get_bytes(first.sha256) == content


def test_put_bytes_empty_is_an_object_like_others(object_store: S3ObjectStore, tmp_path: Path) -> None:
    stored = object_store.put_bytes(b"")
    assert object_store.size_bytes(stored.sha256) == 0
    assert object_store.get_bytes(stored.sha256) == b""
    assert object_store.get_range(stored.sha256, 0, 10) == b""
    assert object_store.get_to_file(stored.sha256, tmp_path / "empty") == 0


def test_put_bytes_from_many_threads_at_once_creates_one_object(object_store: S3ObjectStore) -> None:
    content = os.urandom(200_000)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(object_store.put_bytes(content).created)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert sum(results) == 1
    assert object_store.get_bytes(hashlib.sha256(content).hexdigest()) == content


def test_put_file_larger_than_one_chunk_comes_back_verified(object_store: S3ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(9_000_000))
    stored = object_store.put_file(source)
    assert object_store.get_to_file(stored.sha256, target) == stored.size_bytes == 9_000_000
    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_put_file_that_changes_meanwhile_leaves_nothing_under_the_wrong_name(
    object_store: S3ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a" * 100_000)
    digest = hashlib.sha256(b"a" * 100_000).hexdigest()
    put = object_store._put

    def change_then_put(digest: str, body: IO[bytes], size_bytes: int) -> bool:
        with source.open("r+b") as file:
            file.write(b"b")
        return put(digest, body, size_bytes)

    monkeypatch.setattr(object_store, "_put", change_then_put)
    with pytest.raises((DigestMismatchError, StorageRefusedError)):
        object_store.put_file(source)
    assert not object_store.exists(digest)


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 4, b"0123"), (8, 4, b"89"), (10, 1, b""), (50, 1, b""), (-1, 3, b""), (3, 0, b"")],
)
def test_get_range_gives_what_lies_inside(
    object_store: S3ObjectStore, start: int, length: int, expected: bytes
) -> None:
    stored = object_store.put_bytes(b"0123456789")
    assert object_store.get_range(stored.sha256, start, length) == expected


def test_absent_object_is_named_in_the_error(object_store: S3ObjectStore, tmp_path: Path) -> None:
    assert not object_store.exists(ABSENT)
    for call in (
        lambda: object_store.get_bytes(ABSENT),
        lambda: object_store.size_bytes(ABSENT),
        lambda: object_store.get_range(ABSENT, 0, 1),
        lambda: object_store.get_to_file(ABSENT, tmp_path / "x"),
    ):
        with pytest.raises(ObjectNotFoundError, match=ABSENT):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "😀"])
def test_object_key_of_what_is_no_sha256_is_refused(name: str) -> None:
    with pytest.raises(ObjectNotFoundError, match="not a sha256"):
        object_key(name)


def test_get_of_other_bytes_than_promised_is_refused(object_store: S3ObjectStore, tmp_path: Path) -> None:
    promised = hashlib.sha256(os.urandom(8)).hexdigest()
    object_store._client.put_object(Bucket="shoal", Key=object_key(promised), Body=b"poison")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(DigestMismatchError, match=promised):
        object_store.get_bytes(promised)
    with pytest.raises(DigestMismatchError):
        object_store.get_to_file(promised, target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_delete_twice_is_harmless(object_store: S3ObjectStore) -> None:
    stored = object_store.put_bytes(os.urandom(20))
    object_store.delete(stored.sha256)
    object_store.delete(stored.sha256)
    assert not object_store.exists(stored.sha256)


def test_presign_get_serves_object_and_range_and_anonymous_gets_nothing(object_store: S3ObjectStore) -> None:
    stored = object_store.put_bytes(b"0123456789")
    url = object_store.presign_get(stored.sha256, 60)
    with urllib.request.urlopen(url, timeout=5) as reply:
        assert reply.read() == b"0123456789"
    part = urllib.request.Request(url, headers={"Range": "bytes=2-4"})
    with urllib.request.urlopen(part, timeout=5) as reply:
        assert (reply.status, reply.read()) == (206, b"234")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url.partition("?")[0], timeout=5)
    refused.value.close()
    assert refused.value.code == 403


def test_presign_get_expired_is_refused(object_store: S3ObjectStore) -> None:
    url = object_store.presign_get(object_store.put_bytes(b"soon gone").sha256, 1)
    time.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=5)
    refused.value.close()
    assert refused.value.code == 403


def test_s3_down_is_a_clear_error_within_five_seconds() -> None:
    with socket.socket() as held:  # bound and not listening: connections are refused, and nobody else gets the port
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        store = store_at(endpoint)
        began_s = time.monotonic()
        with pytest.raises(StorageUnavailableError, match=f"S3 at {endpoint} does not answer") as raised:
            store.put_bytes(b"x")
        assert time.monotonic() - began_s < 5
        assert raised.value.retryable
        store.close()


def test_s3_that_accepts_and_never_answers_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = store_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began_s = time.monotonic()
        with pytest.raises(StorageUnavailableError, match="does not answer"):
            store.get_bytes(ABSENT)
        assert time.monotonic() - began_s < 4
        store.close()


def test_s3_that_writes_slower_than_it_reads_is_waited_for(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(1000)
    with slow_writes(s3_server.endpoint, delay_s=1.5) as endpoint:
        store = store_at(endpoint, s3_server.secret_key, s3_server.access_key)
        stored = store.put_bytes(content)
        assert stored.created
        monkeypatch.setattr("server.storage.s3.RENEW_AFTER_S", -3600.0)
        assert not store.put_bytes(content).created, "copied within S3, which takes as long"
        assert store.get_bytes(stored.sha256) == content
        store.close()


def test_wrong_keys_are_refused_and_not_called_an_outage(object_store: S3ObjectStore) -> None:
    store = store_at(object_store._endpoint, secret_key="wrong-secret-wrong-secret", access_key="test-key")
    with pytest.raises(StorageRefusedError, match="check the S3 keys"):
        store.put_bytes(b"x")
    store.close()


def test_from_settings_without_s3_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="s3_endpoint"):
        S3ObjectStore.from_settings(RegistrySettings(data_dir=tmp_path))
