"""The typed client against a real registry."""

import socket
import threading
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa
import torch

from edge_agent.profiles import well_known
from server.client import RegistryClient, RegistryClientError, export_module
from server.database.tables import job_runs
from server.schemas.catalogue import JobState, PushForm, Task
from server.schemas.fleet import Enrolled, EnrolmentRequest
from server.schemas.rollouts import RolloutRequest
from tests import certificates
from tests.server.slow_s3 import slow_writes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.conftest import S3Server

# The class behind this fixture lives in a conftest, which a test can't import.
Registry = Any
FORM = PushForm(task=Task.CLASSIFICATION, metric="top1")


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "eval.npz"
    np.savez(path, x=np.zeros((6, 4), np.float32), y=np.zeros(6, np.int64))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_push_module_exports_with_a_free_batch_and_reports_progress(
    registry: Registry, data: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    net = Net().train()
    with RegistryClient(registry.url) as client:
        pushed = client.push_module(
            net,
            (torch.zeros(1, 4),),
            name="net",
            version="1",
            data=data,
            form=FORM,
            progress=lambda done, total: seen.append((done, total)),
        )
        job = client.get_job(pushed.job_id)
    assert (job.kind, job.state) == ("inspect", JobState.QUEUED)
    assert net.training
    assert seen[-1][0] == seen[-1][1] > data.stat().st_size
    export_module(net, (torch.zeros(1, 4),), tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    assert program.module()(torch.zeros(5, 4)).shape == (5, 3)


def test_export_of_what_torch_cannot_export_is_one_sentence(tmp_path: Path) -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(RegistryClientError, match="torch can't export this module") as caught:
        export_module(Branches(), (torch.zeros(2, 4),), tmp_path / "net.pt2")
    assert caught.value.code == "export_failed"
    assert "\n" not in caught.value.message


def test_everything_that_a_fleet_needs_goes_through_the_client(all_work: Registry) -> None:
    with RegistryClient(all_work.url) as client:
        assert client.health().status == "ok"
        profile = well_known()["pi-4"]
        assert client.add_profile(profile) == profile
        assert client.list_profiles() == [profile]
        assert client.get_profile("pi-4") == profile
        token = client.create_token(profile="pi-4", labels={"site": "berlin"})
        assert [view.token_id for view in client.list_tokens()] == [token.token_id]
        asked = EnrolmentRequest(token=token.token, device_id="dev-1", request=certificates.request_of())
        joined = client.enrol(asked)
        assert isinstance(joined, Enrolled)
        assert client.get_desired("dev-1", joined.key).generation == 0
        with pytest.raises(RegistryClientError) as caught:
            client.get_object_url("dev-1", joined.key, "0" * 64)
        assert (caught.value.code, caught.value.status) == ("object_not_found", 404)
        assert client.label_device("dev-1", {"ring": "canary", "site": None}).labels == {"ring": "canary"}
        assert [device.device_id for device in client.list_devices("ring=canary")] == ["dev-1"]
        assert client.get_device("dev-1").profile == "pi-4"
        with pytest.raises(RegistryClientError, match="nothing was pushed yet"):
            client.start_rollout(RolloutRequest(model="net", version="1"))
        assert client.list_rollouts() == []
        assert client.list_models() == []
        assert client.get_telemetry(by=("device",)) == []
        client.retire_device("dev-1")
        client.revoke_token(token.token_id)
        assert client.list_devices() == []
        assert client.list_tokens() == []


def test_wait_for_job_ends_with_it(registry: Registry, data: Path, tmp_path: Path) -> None:
    source = archive(tmp_path)
    row = {"worker": "w", "attempt": 1, "lease_until": 0.0, "started_at": 1.0, "progress": {"stage": "load"}}

    def set_run(job_id: str, state: str, error: dict[str, str] | None = None) -> None:
        with registry.catalogue.write() as connection:
            connection.execute(sa.delete(job_runs))
            connection.execute(sa.insert(job_runs).values(job_id=job_id, state=state, error=error, **row))

    with RegistryClient(registry.url) as client:
        job_id = client.push_model(source, name="net", version="1", data=data, form=FORM).job_id
        with pytest.raises(RegistryClientError, match="still queued") as late:
            client.wait_for_job(job_id, timeout_s=0)
        assert late.value.code == "timeout"
        set_run(job_id, "running")
        finisher = threading.Timer(0.5, set_run, (job_id, "done"))
        finisher.start()
        stages: list[str] = []
        done = client.wait_for_job(job_id, timeout_s=20, progress=lambda job: stages.append(job.progress.stage))
        finisher.join()
        assert done.state is JobState.DONE
        assert stages[0] == "load"
        set_run(job_id, "failed", {"code": "bad_data", "message": "No rows."})
        with pytest.raises(RegistryClientError, match=r"No rows\.") as failed:
            client.wait_for_job(job_id)
        assert failed.value.code == "bad_data"


def archive(folder: Path) -> Path:
    source = folder / "m.pt2"
    with zipfile.ZipFile(source, "w") as entries:
        entries.writestr("m/archive_format", "pt2")
    return source


def test_push_that_takes_longer_to_store_than_an_answer_may_take_succeeds(
    start_registry: "Callable[..., Registry]", s3_server: "S3Server", data: Path, tmp_path: Path
) -> None:
    with slow_writes(s3_server.endpoint, delay_s=1.5) as endpoint:
        slow = start_registry(s3_endpoint=endpoint)
        with RegistryClient(slow.url, timeout_s=1.0) as client:
            pushed = client.push_model(archive(tmp_path), name="net", version="1", data=data, form=FORM)
            assert client.get_job(pushed.job_id).state is JobState.QUEUED


def test_push_that_is_never_answered_does_not_say_that_it_failed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.client.client.PUSH_ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            RegistryClient(url) as client,
            pytest.raises(RegistryClientError, match=r"has all of net@1.*may still register it.*job list") as late,
        ):
            client.push_model(archive(tmp_path), name="net", version="1", data=data, form=FORM)
        assert late.value.code == "timeout"


@pytest.mark.parametrize("name", ["../x", "a b", "a+b", "a#b", "n" * 300, "🐟", "", "..", "a/b"])
def test_impossible_name_is_refused_before_anything_is_sent(name: str, data: Path) -> None:
    with RegistryClient("http://127.0.0.1:9") as client:
        calls: list[Callable[[], object]] = [
            lambda: client.get_profile(name),
            lambda: client.get_device(name),
            lambda: client.push_model(data, name=name, version="1", data=data, form=FORM),
        ]
        for call in calls:
            with pytest.raises(RegistryClientError, match="1 to 63 letters"):
                call()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with RegistryClient("http://127.0.0.1:9") as client, pytest.raises(RegistryClientError, match=r"nothing\.pt2"):
        client.push_model(tmp_path / "nothing.pt2", name="n", version="1", data=tmp_path / "d.npz", form=FORM)


def test_nobody_there_is_one_sentence_with_the_address() -> None:
    with RegistryClient("127.0.0.1:9") as client, pytest.raises(RegistryClientError) as caught:
        client.health()
    assert caught.value.code == "unreachable"
    assert "https://127.0.0.1:9" in caught.value.message


@pytest.mark.parametrize("url", ["", "ftp://host", "http://", "http://[::1", "http://host:99999", "http://host:x"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(RegistryClientError) as caught:
        RegistryClient(url)
    assert caught.value.code == "bad_url"


def test_something_else_at_the_address_is_recognised() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            RegistryClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client,
            pytest.raises(RegistryClientError, match="not this registry's API"),
        ):
            client.health()
        thread.join()


def test_registry_that_does_not_answer_in_time_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with RegistryClient(url, timeout_s=0.3) as client, pytest.raises(RegistryClientError, match="in time"):
            client.health()
