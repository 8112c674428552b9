import subprocess
import sys
from pathlib import Path
from typing import Protocol

from server.settings import RegistrySettings
from server.storage import S3ObjectStore


class Server(Protocol):
    endpoint: str
    access_key: str
    secret_key: str


def prepare(settings: RegistrySettings) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.storage.prepare"]
    environment = settings.child_environment()
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def settings_for(server: Server, tmp_path: Path, secret_key: str) -> RegistrySettings:
    return RegistrySettings.model_validate(
        {
            "data_dir": tmp_path,
            "s3_endpoint": server.endpoint,
            "s3_access_key": server.access_key,
            "s3_secret_key": secret_key,
            "s3_bucket": "another-bucket",
        }
    )


def test_prepare_twice_creates_the_bucket_once(s3_server: Server, tmp_path: Path) -> None:
    settings = settings_for(s3_server, tmp_path, s3_server.secret_key)
    for _ in range(2):
        done = prepare(settings)
        assert (done.returncode, done.stderr) == (0, "")
    store = S3ObjectStore.from_settings(settings)
    assert store.get_bytes(store.put_bytes(b"here").sha256) == b"here"
    store.close()


def test_prepare_with_wrong_keys_says_so_in_one_sentence(s3_server: Server, tmp_path: Path) -> None:
    done = prepare(settings_for(s3_server, tmp_path, "wrong"))
    assert done.returncode == 1
    assert "check the S3 keys" in done.stderr
    assert len(done.stderr.splitlines()) == 1
