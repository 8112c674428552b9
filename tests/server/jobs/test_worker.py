"""The worker as a real process, with a real S3 and the real job on a real, small network."""

import fcntl
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import sqlalchemy as sa

from edge_agent.protocol.manifest import VariantManifest
from server.catalogue.jobs import WantedJob, enqueue
from server.database import tables
from server.database.connect import Database
from server.jobs.process import JobLimits
from server.jobs.runner import JobRunner, JobSettings
from server.jobs.worker import Worker
from server.schemas.catalogue import Job, JobState, ModelVersion, PushForm, Task, Variant
from server.schemas.report import Report
from server.schemas.search import Search
from server.schemas.work import BuildWork, InspectWork, JobKind, ReportWork, SearchWork, StoredFile
from server.storage import S3ObjectStore

NETWORK = Path(__file__).with_name("network.py")
MIB = 1024 * 1024
StartWorker = Callable[[], "subprocess.Popen[bytes]"]
MakeProgram = Callable[[str], tuple[str, ...]]
# What takes long for the job's sake; what the worker writes into either database the other tests see.
ON_ONE_SERVER = pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)


class Catalogue(Protocol):
    folder: Path
    database: Database

    def add_job(self, kind: str, request: dict[str, Any], *, version: str = ..., created_at: float = ...) -> str: ...
    def insert(self, table: sa.Table, row: dict[str, Any]) -> None: ...
    def rows(self, table: sa.Table) -> list[sa.RowMapping]: ...
    def run(self, job_id: str) -> sa.RowMapping: ...
    def cancel(self, job_id: str) -> Job: ...
    def job(self, job_id: str) -> Job: ...


class S3Server(Protocol):
    endpoint: str
    access_key: str
    secret_key: str


def inspect_request(store: S3ObjectStore, source: bytes, data: bytes) -> dict[str, Any]:
    files = [StoredFile(sha256=hashlib.sha256(one).hexdigest(), size_bytes=len(one)) for one in (source, data)]
    for content in (source, data):
        store.put_bytes(content)
    work = InspectWork(source=files[0], data=files[1], form=PushForm(task=Task.REGRESSION, metric="rmse"))
    return work.model_dump(mode="json")


def wait_for_end(catalogue: Catalogue, job_id: str, *, timeout_s: float = 60) -> sa.RowMapping:
    end_s = time.monotonic() + timeout_s
    while True:
        runs = {row["job_id"]: row for row in catalogue.rows(tables.job_runs)}
        if job_id in runs and runs[job_id]["state"] in {"done", "failed", "cancelled"}:
            return runs[job_id]
        assert time.monotonic() < end_s, runs
        time.sleep(0.05)


@pytest.fixture(scope="session")
def price(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive and its data, made once for all workers of a test run: torch takes seconds to import."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "job-network"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "price.npz").exists():
            subprocess.run([sys.executable, str(NETWORK), str(folder)], check=True)
    return folder


@pytest.fixture
def start_worker(catalogue: Catalogue, s3_server: S3Server) -> Iterator[StartWorker]:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "SHOAL_DATA_DIR": str(catalogue.folder),
            "SHOAL_DATABASE_URL": str(catalogue.database.url),
            "SHOAL_S3_ENDPOINT": s3_server.endpoint,
            "SHOAL_S3_ACCESS_KEY": s3_server.access_key,
            "SHOAL_S3_SECRET_KEY": s3_server.secret_key,
        }
        with (catalogue.folder / f"worker-{len(started)}.log").open("wb") as log:
            started.append(
                subprocess.Popen([sys.executable, "-m", "server.processes.worker"], env=environment, stderr=log)
            )
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        assert process.wait(10) == 0 or process.returncode == -signal.SIGKILL


def in_process(
    catalogue: Catalogue, store: S3ObjectStore, program: tuple[str, ...], *, lease_s: float = 30.0
) -> Worker:
    settings = JobSettings(
        data_dir=catalogue.folder,
        limits=JobLimits(memory_bytes=256 * MIB, wall_s=20, cpu_s=20),
        pythons={},
        program=program,
    )
    telemetry = Database(f"sqlite:///{catalogue.folder / 'telemetry.db'}")
    runner = JobRunner(catalogue.database, telemetry, store, settings)
    return Worker(catalogue.database, runner, name="w", lease_s=lease_s)


@ON_ONE_SERVER
def test_worker_a_pushed_network_is_inspected_then_built_and_stored(
    catalogue: Catalogue, object_store: S3ObjectStore, price: Path, start_worker: StartWorker
) -> None:
    request = inspect_request(object_store, (price / "price.pt2").read_bytes(), (price / "price.npz").read_bytes())
    profile = {
        "name": "any",
        "arch": "x86_64",
        "cpu": {"model": "none like this", "cores": 2},
        "ram_bytes": 1 << 30,
        "storage_bytes": 1 << 30,
        "runtimes": ["litert"],
    }
    for name, limits in (("any", {}), ("tiny", {"download_bytes": 10})):
        document = {**profile, "name": name, "limits": limits}
        catalogue.insert(tables.profiles, {"name": name, "document": document, "created_at": 1.0})
    inspection = catalogue.add_job("inspect", request)
    work = BuildWork(profiles=("any", "tiny"), recipes=("float32",))
    build = catalogue.add_job("build", work.model_dump(mode="json"))
    start_worker()

    run = wait_for_end(catalogue, inspection)
    assert run["state"] == "done", run["error"]
    (row,) = catalogue.rows(tables.model_versions)
    version = ModelVersion.model_validate(row["document"])
    assert (version.metric, version.parameters > 0, version.splits.test > 0) == ("rmse", True, True)

    run = wait_for_end(catalogue, build)
    assert run["state"] == "done", run["error"]
    choices = {row["profile"]: row for row in catalogue.rows(tables.choices)}
    assert choices["tiny"]["variant_id"] is None
    assert choices["tiny"]["refusal"]["limit"] == "download_bytes"
    chosen = next(row for row in catalogue.rows(tables.variants) if row["profile"] == "any" and row["chosen"])
    assert chosen["variant_id"] == choices["any"]["variant_id"]
    assert choices["any"]["reason"].startswith(f"{chosen['variant_id'].rpartition('-')[0]} is ")
    assert choices["tiny"]["reason"] == ""
    variant = Variant.model_validate(chosen["document"])
    assert variant.latency_p95_ms is not None
    assert [(step.step, "FULLY_CONNECTED" in " ".join(step.layers.values())) for step in variant.steps] == [
        ("export-litert", True)
    ]
    manifest = VariantManifest.model_validate_json(object_store.get_bytes(chosen["manifest_sha256"]))
    assert manifest.object.sha256 == chosen["object_sha256"]
    assert object_store.size_bytes(chosen["object_sha256"]) == chosen["object_bytes"]
    check_report(catalogue, object_store, chosen["variant_id"])
    end_s = time.monotonic() + 20
    while list((catalogue.folder / "work").iterdir()):  # its folder goes after its result was written
        assert time.monotonic() < end_s, "a job left its folder"
        time.sleep(0.05)


@ON_ONE_SERVER
@pytest.mark.slow  # whole builds
def test_worker_recipes_of_ones_own_are_told_apart_by_their_steps_and_refused_by_their_job(
    catalogue: Catalogue, object_store: S3ObjectStore, price: Path, start_worker: StartWorker
) -> None:
    content = [(price / f"price.{ending}").read_bytes() for ending in ("pt2", "npz")]
    profile: dict[str, Any] = {"name": "any", "arch": "x86_64", "cpu": {"model": "none like this", "cores": 2}}
    profile |= {"ram_bytes": 1 << 30, "storage_bytes": 1 << 30, "runtimes": ["litert"]}
    catalogue.insert(tables.profiles, {"name": "any", "document": profile, "created_at": 1.0})
    catalogue.add_job("inspect", inspect_request(object_store, *content))
    export, dynamic = {"step": "export-litert"}, {"step": "dynamic-int8", "parameters": {"granularity": "tensor"}}

    def asked(name: str, *steps: dict[str, Any]) -> str:
        work = BuildWork.model_validate({"profiles": ["any"], "own_recipes": [{"name": name, "steps": steps}]})
        return catalogue.add_job("build", work.model_dump(mode="json"))

    refused = {
        asked("mine", export, {"step": "sharpen"}): "there is no step 'sharpen'; there are cluster",
        asked("mine", dynamic): "mine: dynamic-int8 works on a litert file: put export-litert before it",
        asked("mine", {"step": "cluster", "parameters": {"values": 1}}, export): "cluster: values: Input should be",
        asked("mine", {"step": "fine-tune"}, export): "fine-tune trains, and this version has no training data",
    }
    start_worker()
    for job, words in refused.items():
        run = wait_for_end(catalogue, job)
        assert (run["state"], run["error"]["code"], words in run["error"]["message"]) == ("failed", "bad_recipe", True)
    assert catalogue.rows(tables.variants) == catalogue.rows(tables.choices) == []

    def ids(job: str) -> set[str]:
        run = wait_for_end(catalogue, job)
        assert run["state"] == "done", run["error"]
        return {row["variant_id"] for row in catalogue.rows(tables.variants)}

    first = ids(asked("mine", export, dynamic))
    assert ids(asked("mine", export, dynamic)) == first
    both = ids(asked("mine", export, {"step": "dynamic-int8"}))
    assert first < both
    assert {len(first), len(both - first)} == {2}  # with and without XNNPACK
    found = [Variant.model_validate(row["document"]) for row in catalogue.rows(tables.variants)]
    told = {one.variant_id in first: one.steps[-1].parameters for one in found}
    assert told == {True: {"granularity": "tensor"}, False: {}}
    assert {one.recipe for one in found} == {"mine"}


@pytest.mark.timeout(400)
@ON_ONE_SERVER
def test_worker_a_search_tries_recipes_and_registers_the_best_of_them(
    catalogue: Catalogue, object_store: S3ObjectStore, price: Path, start_worker: StartWorker
) -> None:
    request = inspect_request(object_store, (price / "price.pt2").read_bytes(), (price / "price.npz").read_bytes())
    profile = {
        "name": "small",
        "arch": "x86_64",
        "cpu": {"model": "none like this", "cores": 2},
        "ram_bytes": 1 << 30,
        "storage_bytes": 1 << 30,
        "runtimes": ["litert"],
        "limits": {"metric_max_drop": 0.05},
    }
    catalogue.insert(tables.profiles, {"name": "small", "document": profile, "created_at": 1.0})
    catalogue.add_job("inspect", request)
    search = catalogue.add_job("search", SearchWork(profile="small", trials=3, seed=1).model_dump(mode="json"))
    start_worker()

    run = wait_for_end(catalogue, search, timeout_s=380)
    assert run["state"] == "done", run["error"]
    found = Search.model_validate(
        {**run["result"]["search"], "job_id": search, "model": "net", "version": "1", "profile": "small"}
    )
    assert [trial.number for trial in found.trials] == [0, 1, 2]
    assert found.best in found.front
    assert len(run["progress"]["front"]) == len(found.front)
    (choice,) = catalogue.rows(tables.choices)
    (chosen,) = (row for row in catalogue.rows(tables.variants) if row["chosen"])
    assert choice["variant_id"] == chosen["variant_id"]
    assert chosen["recipe"] in {trial.recipe.name for trial in found.trials}
    assert VariantManifest.model_validate_json(object_store.get_bytes(chosen["manifest_sha256"])).profile == "small"
    (journal,) = (catalogue.folder / "cache" / "searches").glob("*.jsonl")
    assert len(journal.read_text().splitlines()) == 1 + len(found.trials)  # what it would go on from


def test_worker_an_upload_that_is_no_archive_fails_in_one_sentence(
    catalogue: Catalogue, object_store: S3ObjectStore, price: Path, start_worker: StartWorker
) -> None:
    job_id = catalogue.add_job(
        "inspect", inspect_request(object_store, b"PK\x03\x04 not really", (price / "price.npz").read_bytes())
    )
    start_worker()
    run = wait_for_end(catalogue, job_id)
    assert (run["state"], run["error"]["code"]) == ("failed", "bad_archive")
    assert "\n" not in run["error"]["message"]
    assert catalogue.rows(tables.model_versions) == []


def test_worker_terminated_gives_the_job_back_within_seconds(
    catalogue: Catalogue, object_store: S3ObjectStore, price: Path, start_worker: StartWorker
) -> None:
    request = inspect_request(object_store, (price / "price.pt2").read_bytes(), (price / "price.npz").read_bytes())
    job_id = catalogue.add_job("inspect", request)
    worker = start_worker()
    while not [row for row in catalogue.rows(tables.job_runs) if row["state"] == "running"]:
        time.sleep(0.02)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(5) == 0
    assert (catalogue.run(job_id)["state"], catalogue.run(job_id)["attempt"]) == ("queued", 0)
    assert list((catalogue.folder / "work").iterdir()) == []


def test_worker_a_missing_object_fails_the_job_with_its_name(
    catalogue: Catalogue, object_store: S3ObjectStore, program: MakeProgram
) -> None:
    request = inspect_request(object_store, b"one", b"two")
    request["source"]["sha256"] = "0" * 64
    job_id = catalogue.add_job("inspect", request)
    assert in_process(catalogue, object_store, program("")).run_one(threading.Event())
    run = catalogue.run(job_id)
    assert (run["state"], run["error"]["code"]) == ("failed", "object_not_found")


def test_worker_an_s3_that_refuses_its_keys_fails_the_job_and_not_the_worker(
    catalogue: Catalogue, object_store: S3ObjectStore, s3_server: S3Server, program: MakeProgram
) -> None:
    job_id = catalogue.add_job("inspect", inspect_request(object_store, b"one", b"two"))
    stranger = S3ObjectStore(
        endpoint=s3_server.endpoint, bucket="shoal", access_key="nobody", secret_key="wrong", region="us-east-1"
    )
    assert in_process(catalogue, stranger, program("")).run_one(threading.Event())
    stranger.close()
    run = catalogue.run(job_id)
    assert (run["state"], run["error"]["code"]) == ("failed", "storage_refused")
    assert "check the S3 keys" in run["error"]["message"]


@pytest.mark.parametrize(
    "result",
    [
        pytest.param("not JSON", id="no JSON"),
        pytest.param('{"float_metric": {"value": 1}, "variants": [], "choices": []}', id="no choice"),
        pytest.param(
            '{"float_metric":{"value":1},"variants":[],"choices":[{"profile":"any","variant_id":"ghost"}]}', id="ghost"
        ),
        pytest.param('{"float_metric":{"value":1},"variants":[],"choices":[{"profile":"any"}]}', id="neither"),
    ],
)
def test_worker_a_build_result_that_contradicts_itself_registers_nothing(
    catalogue: Catalogue, object_store: S3ObjectStore, program: MakeProgram, result: str
) -> None:
    prepared_build(catalogue, object_store)
    job_id = catalogue.add_job("build", BuildWork(profiles=("any",)).model_dump(mode="json"))
    source = f"import sys; open(sys.argv[3], 'w').write({result!r})"
    assert in_process(catalogue, object_store, program(source)).run_one(threading.Event())
    assert (catalogue.run(job_id)["state"], catalogue.run(job_id)["error"]["code"]) == ("failed", "bad_result")
    assert catalogue.rows(tables.variants) == catalogue.rows(tables.choices) == []


def test_worker_a_link_among_the_results_is_never_uploaded(
    catalogue: Catalogue, object_store: S3ObjectStore, program: MakeProgram
) -> None:
    prepared_build(catalogue, object_store)
    secret = catalogue.folder / "secret"
    secret.write_bytes(os.urandom(32))
    sha256 = hashlib.sha256(secret.read_bytes()).hexdigest()
    job_id = catalogue.add_job("build", BuildWork(profiles=("any",)).model_dump(mode="json"))
    built = {
        "profile": "any",
        "variant_id": "v",
        "recipe": "r",
        "runtime": "litert",
        "delegate": "none",
        "verdict": "fits",
        "chosen": True,
        "manifest_sha256": sha256,
    }
    result = {
        "float_metric": {"value": 1},
        "variants": [built],
        "choices": [{"profile": "any", "variant_id": "v"}],
    }
    source = (
        "import json, os, sys\n"
        "folder = json.load(open(sys.argv[2]))['output_dir']\n"
        f"os.symlink({str(secret)!r}, folder + '/{sha256}')\n"
        f"json.dump({result!r}, open(sys.argv[3], 'w'))"
    )
    assert in_process(catalogue, object_store, program(source)).run_one(threading.Event())
    assert catalogue.run(job_id)["error"]["code"] == "bad_result"
    assert not object_store.exists(sha256)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["report.html", "../secret.json"], "files that no report has"),
        (["report.json"], "files that no report has"),
        (["report.html"], "did not leave it"),
    ],
)
def test_worker_a_report_of_foreign_files_is_never_uploaded(
    catalogue: Catalogue, object_store: S3ObjectStore, program: MakeProgram, files: list[str], words: str
) -> None:
    prepared_build(catalogue, object_store)
    sha256 = object_store.put_bytes(b"of a variant").sha256
    names = {"model": "net", "version": "1", "profile": "any", "variant_id": "v", "recipe": "float32"}
    told = {"runtime": "litert", "delegate": "none", "verdict": "fits", "chosen": True}
    shas = {"manifest_sha256": sha256, "object_sha256": sha256}
    document = {**names, **told, **shas}
    catalogue.insert(tables.variants, {**document, "document": document, "created_at": 1.0})
    work = ReportWork(profile="any", variant_id="v")
    job_id = catalogue.add_job("report", work.model_dump(mode="json"))
    result = {"label": "faster", "sentence": "0.5", "loses_points": False, "files": files}
    source = f"import json, sys; json.dump({result!r}, open(sys.argv[3], 'w'))"
    assert in_process(catalogue, object_store, program(source)).run_one(threading.Event())
    assert (catalogue.run(job_id)["state"], catalogue.run(job_id)["error"]["code"]) == ("failed", "bad_result")
    assert words in catalogue.run(job_id)["error"]["message"]
    assert catalogue.rows(tables.variant_reports) == []


def test_worker_that_lost_its_lease_ends_the_job_and_writes_nothing(
    catalogue: Catalogue, object_store: S3ObjectStore, program: MakeProgram
) -> None:
    job_id = catalogue.add_job("inspect", inspect_request(object_store, b"one", b"two"))
    worker = in_process(catalogue, object_store, program("import time; time.sleep(3600)"), lease_s=2.0)
    thief = sa.update(tables.job_runs).values(worker="thief", attempt=2)

    def steal() -> None:
        time.sleep(0.5)
        with catalogue.database.write() as connection:
            connection.execute(thief)

    thread = threading.Thread(target=steal)
    thread.start()
    worker.run_one(threading.Event())  # comes back long before the program would have ended
    thread.join()
    assert (catalogue.run(job_id)["state"], catalogue.run(job_id)["worker"]) == ("running", "thief")


def test_worker_a_running_job_that_is_cancelled_ends_within_seconds_with_all_its_processes(
    catalogue: Catalogue, object_store: S3ObjectStore, program: MakeProgram
) -> None:
    pids = catalogue.folder / "pids"
    source = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} ')\n"
        "time.sleep(600)"
    )
    job_id = catalogue.add_job("inspect", inspect_request(object_store, b"one", b"two"))
    behind = catalogue.add_job("inspect", inspect_request(object_store, b"one", b"two"), version="2", created_at=2.0)
    worker = in_process(catalogue, object_store, program(source))
    cancelled_at_s: list[float] = []

    def cancel() -> None:
        while not (pids.exists() and pids.read_text().endswith(" ")):
            time.sleep(0.02)
        cancelled_at_s.append(time.monotonic())
        assert catalogue.cancel(job_id).stopping

    thread = threading.Thread(target=cancel)
    thread.start()
    assert worker.run_one(threading.Event())
    took_s = time.monotonic() - cancelled_at_s[0]
    thread.join()
    assert took_s < 5
    assert not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split())
    assert catalogue.job(job_id).state is JobState.CANCELLED
    assert catalogue.run(job_id)["error"] is None
    assert catalogue.rows(tables.model_versions) == []
    assert list((catalogue.folder / "work").iterdir()) == []
    assert catalogue.job(behind).state is JobState.QUEUED
    catalogue.cancel(behind)
    assert not worker.run_one(threading.Event())


def test_worker_killed_while_it_should_stop_a_job_leaves_that_to_the_next(
    catalogue: Catalogue, object_store: S3ObjectStore, program: MakeProgram, start_worker: StartWorker, price: Path
) -> None:
    request = inspect_request(object_store, (price / "price.pt2").read_bytes(), (price / "price.npz").read_bytes())
    job_id = catalogue.add_job("inspect", request)
    worker = start_worker()
    while not catalogue.rows(tables.job_runs):
        time.sleep(0.02)
    worker.send_signal(signal.SIGSTOP)  # it sees nothing any more
    catalogue.cancel(job_id)
    worker.kill()
    worker.wait(5)
    assert catalogue.job(job_id).stopping
    with catalogue.database.write() as connection:  # what time does
        connection.execute(sa.update(tables.job_runs).values(lease_until=1.0))
    assert not in_process(catalogue, object_store, program("")).run_one(threading.Event())
    assert catalogue.job(job_id).state is JobState.CANCELLED


@pytest.mark.slow  # a whole search
@pytest.mark.timeout(600)
@ON_ONE_SERVER
def test_worker_a_search_that_was_cancelled_goes_on_from_what_it_had_tried(
    catalogue: Catalogue, object_store: S3ObjectStore, price: Path, start_worker: StartWorker
) -> None:
    request = inspect_request(object_store, (price / "price.pt2").read_bytes(), (price / "price.npz").read_bytes())
    profile: dict[str, Any] = {"name": "small", "arch": "x86_64", "cpu": {"model": "none like this", "cores": 2}}
    profile |= {"ram_bytes": 1 << 30, "storage_bytes": 1 << 30, "runtimes": ["litert"]}
    catalogue.insert(tables.profiles, {"name": "small", "document": profile, "created_at": 1.0})
    catalogue.add_job("inspect", request)
    work = SearchWork(profile="small", trials=4, seed=1).model_dump(mode="json")
    wanted = WantedJob(JobKind.SEARCH, "net", "1", identity=work, request=work)

    def ask() -> str:
        with catalogue.database.write() as connection:
            return enqueue(connection, wanted, now=2.0).job.job_id

    first = ask()
    start_worker()
    journals = catalogue.folder / "cache" / "searches"
    end_s = time.monotonic() + 300
    while len([line for path in journals.glob("*.jsonl") for line in path.read_bytes().splitlines()]) < 3:
        assert time.monotonic() < end_s
        assert catalogue.job(first).state in {JobState.QUEUED, JobState.RUNNING}, catalogue.job(first).error
        time.sleep(0.1)
    catalogue.cancel(first)
    cancelled_s = time.monotonic()
    second = ask()  # while the first is being stopped
    assert second != first
    assert wait_for_end(catalogue, first)["state"] == "cancelled"
    assert time.monotonic() - cancelled_s < 10
    assert catalogue.rows(tables.choices) == []
    (journal,) = journals.glob("*.jsonl")
    kept = journal.read_bytes().splitlines()
    run = wait_for_end(catalogue, second, timeout_s=400)
    assert run["state"] == "done", run["error"]
    lines = journal.read_bytes().splitlines()
    assert lines[: len(kept)] == kept, "what was tried is not tried again"
    assert len(lines) == 1 + 4
    assert [trial["number"] for trial in run["result"]["search"]["trials"]] == [0, 1, 2, 3]


def check_report(catalogue: Catalogue, store: S3ObjectStore, variant_id: str) -> None:
    """A report on what was built is asked for, made, stored and registered."""
    report = catalogue.add_job("report", ReportWork(profile="any", variant_id=variant_id).model_dump(mode="json"))
    run = wait_for_end(catalogue, report)
    assert run["state"] == "done", run["error"]
    (row,) = catalogue.rows(tables.variant_reports)
    told = Report.model_validate(row["document"])
    assert (told.label, told.variant_id) == ("the float model", variant_id)  # its own file
    with zipfile.ZipFile(io.BytesIO(store.get_bytes(row["archive_sha256"]))) as archive:
        assert tuple(archive.namelist()) == told.files
        assert variant_id in archive.read("report.html").decode()


def prepared_build(catalogue: Catalogue, store: S3ObjectStore) -> None:
    """A profile, and a model version whose files are in the store."""
    stored = store.put_bytes(b"a model")
    profile = {
        "name": "any",
        "arch": "x86_64",
        "cpu": {"model": "x", "cores": 2},
        "ram_bytes": 1 << 30,
        "storage_bytes": 1 << 30,
        "runtimes": ["litert"],
    }
    catalogue.insert(tables.profiles, {"name": "any", "document": profile, "created_at": 1.0})
    document = {
        "model": "net",
        "version": "1",
        "task": "regression",
        "metric": "rmse",
        "signature": {"inputs": [{"name": "x", "shape": [-1, 1]}], "outputs": [{"name": "y", "shape": [-1, 1]}]},
        "preprocessing": {},
        "labels": [],
        "splits": {"calibration": 1, "selection": 1, "test": 1, "groups": 1},
        "parameters": 1,
        "source_sha256": stored.sha256,
        "source_bytes": stored.size_bytes,
        "eval_sha256": stored.sha256,
        "created_at": 1.0,
    }
    columns = ("model", "version", "task", "metric", "source_sha256", "source_bytes", "eval_sha256", "created_at")
    catalogue.insert(tables.model_versions, {**{name: document[name] for name in columns}, "document": document})
