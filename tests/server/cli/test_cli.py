"""The commands against a real registry: tables for people, JSON for programs, errors as a sentence and an exit code."""

import json
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from server.cli.app import app
from server.database.tables import (
    choices,
    decisions,
    deployments,
    heartbeats,
    job_runs,
    jobs,
    model_versions,
    rollout_states,
)
from server.retention.requests import latest_request
from tests import certificates

# The class behind this fixture lives in a conftest, which a test can't import.
Registry = Any
Run = Callable[..., Result]


@pytest.fixture
def run(registry: Registry) -> Run:
    """Run a command against the registry."""

    def invoke(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments), env={"SHOAL_REGISTRY": registry.url, "NO_COLOR": "1"})
        assert result.exit_code == exit_code, result.output
        return result

    return invoke


@pytest.fixture
def as_json(run: Run) -> Callable[..., Any]:
    """Run a command with --json and read what it prints."""
    return lambda *arguments: json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A model, data and labels."""
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
    np.savez(tmp_path / "eval.npz", x=np.zeros((2, 2), np.float32), y=np.zeros(2))
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    return {name: str(tmp_path / name) for name in ("net.pt2", "eval.npz", "labels.txt")}


@pytest.fixture
def device(run: Run, as_json: Callable[..., Any], registry: Registry) -> str:
    """A device that joined."""
    run("profile", "add", "pi-4")
    token = as_json("token", "create", "--profile", "pi-4", "--label", "site=berlin", "--valid", "30m")
    body = certificates.body(token["token"], device_id="dev-1")
    assert httpx.post(f"{registry.url}/v1/enrolment", json=body).status_code == 201
    return "dev-1"


@pytest.fixture
def start_worker(registry: Registry) -> Iterator[Callable[[str], None]]:
    """Does what a worker writes at the end of each job, as soon as the job is there; until the test ends."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def work(fails: str) -> None:
        done: set[str] = set()
        while not ended.wait(0.05):
            with registry.catalogue.read() as connection:
                waiting = [row for row in connection.execute(sa.select(jobs)) if row.job_id not in done]
            for job in waiting:
                done.add(job.job_id)
                finish(registry, job, fails=job.kind == fails)

    def start(fails: str) -> None:
        threads.append(threading.Thread(target=work, args=(fails,)))
        threads[-1].start()

    yield start
    ended.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def worker(start_worker: Callable[[str], None]) -> None:
    """A worker whose jobs succeed."""
    start_worker("none")


@pytest.fixture
def failing_worker(start_worker: Callable[[str], None]) -> Callable[[str], None]:
    """Start a worker that fails all jobs of one kind."""
    return start_worker


def finish(registry: Registry, job: sa.Row[Any], *, fails: bool = False) -> None:
    if fails:
        with registry.catalogue.write() as connection:
            failed = {"job_id": job.job_id, "state": "failed", "worker": "w", "attempt": 1, "lease_until": 0.0}
            error = {"code": "bad_model", "message": "the net is empty."}
            connection.execute(sa.insert(job_runs).values(**failed, started_at=1.0, progress={}, error=error))
        return
    run_row = {"job_id": job.job_id, "state": "done", "worker": "w", "attempt": 1, "lease_until": 0.0}
    document = {
        "model": job.model,
        "version": job.version,
        "task": "classification",
        "metric": "top1",
        "signature": {"inputs": [{"name": "x", "shape": [-1, 2]}], "outputs": [{"name": "y", "shape": [-1, 2]}]},
        "preprocessing": {},
        "labels": ["cat", "dog"],
        "splits": {"calibration": 1, "selection": 1, "test": 2, "groups": 4},
        "parameters": 6000,
        "source_sha256": "0" * 64,
        "source_bytes": 10,
        "eval_sha256": "1" * 64,
        "created_at": job.created_at,
    }
    names = ("model", "version", "task", "metric", "source_sha256", "source_bytes", "eval_sha256", "created_at")
    with registry.catalogue.write() as connection:
        connection.execute(
            sa.insert(job_runs).values(**run_row, started_at=1.0, finished_at=2.0, progress={"stage": "fetching"})
        )
        if job.kind == "inspect":
            row = {**{name: document[name] for name in names}, "document": document}
            connection.execute(sa.insert(model_versions).values(row))


def test_help_answers_quickly_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from server.cli.app import app;"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0, result.output;"
        "heavy = ('pydantic', 'httpx', 'sqlalchemy', 'fastapi', 'boto3', 'torch');"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.strip() == "[]"


def test_version_is_that_of_the_distribution(run: Run) -> None:
    assert run("--version").stdout == f"edge-registry {metadata.version('shoal')}\n"


def test_client_commands_import_no_server_packages(all_work: Registry) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from server.cli.app import app;"
        f"result = CliRunner().invoke(app, ['status', '--registry', '{all_work.url}']);"
        "assert result.exit_code == 0, result.output;"
        "print([name for name in ('sqlalchemy', 'fastapi', 'boto3', 'torch', 'server.stack') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.strip() == "[]"


def test_status_is_a_table_or_json(run: Run, as_json: Callable[..., Any], all_work: Registry) -> None:
    assert all_work.url in run("status").stdout
    status = as_json("status")
    assert (status["status"], status["broker"], status["url"]) == ("ok", "ok", all_work.url)


def test_status_names_the_process_that_is_missing_and_exits_1(run: Run, all_work: Registry) -> None:
    with all_work.catalogue.write() as connection:
        connection.execute(sa.update(heartbeats).where(heartbeats.c.process == "ingest").values(beat_at=1.0))
        connection.execute(sa.delete(heartbeats).where(heartbeats.c.process == "worker"))
    told = run("status", exit_code=1).stdout
    assert "degraded" in told
    assert "no ingest has worked for" in told
    assert "no worker runs" in told
    assert "no controller" not in told


def test_status_of_a_degraded_registry_exits_1(start_registry: Callable[..., Registry]) -> None:
    down = start_registry(mqtt_url="mqtt://127.0.0.1:9")
    result = CliRunner().invoke(app, ["status", "--registry", down.url])
    assert result.exit_code == 1
    assert "does not answer" in result.stdout


def test_profiles_from_yaml_are_added_listed_and_shown(run: Run, as_json: Callable[..., Any], tmp_path: Path) -> None:
    run("profile", "add", "pi-4", "pi-5")
    (tmp_path / "mine.yaml").write_text(run("profile", "show", "pi-4").stdout.replace("name: pi-4", "name: mine"))
    assert "mine is registered" in run("profile", "add", str(tmp_path / "mine.yaml")).stdout
    assert [profile["name"] for profile in as_json("profile", "list")] == ["mine", "pi-4", "pi-5"]
    assert "Cortex-A72" in run("profile", "list").stdout
    assert as_json("profile", "show", "mine")["cpu"] == as_json("profile", "show", "pi-4")["cpu"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("ram_bytes: ", "ram_bytes: -"), "ram_bytes"),
        (("name: pi-4", "name: ../x"), "name"),
        (("threads: ", "threats: "), "threats"),
        (("name: pi-4", "name: [unclosed"), "YAML"),
    ],
)
def test_profile_that_cannot_be_is_one_sentence_with_the_file(
    run: Run, as_json: Callable[..., Any], tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    run("profile", "add", "pi-4")
    path = tmp_path / "bad.yaml"
    path.write_text(run("profile", "show", "pi-4").stdout.replace(*change))
    said = run("profile", "add", str(path), exit_code=1).stderr
    assert said.startswith(f"edge-registry: {path}: ")
    assert words in said
    assert said.count("\n") == 1
    assert "No such file" in run("profile", "add", "nothing.yaml", exit_code=1).stderr
    assert len(as_json("profile", "list")) == 1


PUSH = (
    "model",
    "push",
    "{net.pt2}",
    "--name",
    "net",
    "--version",
    "1",
    "--data",
    "{eval.npz}",
    "--task",
    "classification",
    "--metric",
    "top1",
)


def push_of(files: dict[str, str], *more: str) -> list[str]:
    return [files.get(word.strip("{}"), word) for word in (*PUSH, *more)]


@pytest.mark.usefixtures("worker")
def test_push_ends_when_the_version_is_registered_and_built(
    run: Run, as_json: Callable[..., Any], files: dict[str, str]
) -> None:
    run("profile", "add", "pi-4")
    push = push_of(files, "--labels", files["labels.txt"], "--mean", "0.5,0.5")
    pushed = as_json(*push)
    assert [(job["kind"], job["state"]) for job in pushed["jobs"]] == [("inspect", "done"), ("build", "done")]
    assert run(*push, "--no-build").stdout == "net@1 is registered\n"
    assert "rollout start net@1" in run(*push).stdout
    conflict = run(*push, "--std", "2", exit_code=1).stderr
    assert "push this under a new version" in conflict
    assert "6,000" in run("model", "list").stdout
    assert as_json("model", "show", "net")[0]["version"] == "1"
    assert "input" in run("model", "show", "net@1").stdout
    assert "no profile has been judged" in run("variant", "build", "net@1").stdout
    assert "none yet" in run("variant", "list", "net@1").stdout
    assert as_json("variant", "choices", "net@1") == []
    assert [job["kind"] for job in as_json("job", "list", "--model", "net")] == ["build", "inspect"]
    listed = run("job", "list").stdout
    assert listed.count("done") == 2
    assert "fetching" not in listed, "the last step that was written is none that it is at"
    assert as_json("job", "show", pushed["job_id"], "--wait")["state"] == "done"
    assert "There is no variant v-x" in run("variant", "show", "net@1", "v-x", exit_code=1).stderr


@pytest.mark.usefixtures("worker")
def test_push_without_a_profile_is_registered_and_says_what_is_missing(run: Run, files: dict[str, str]) -> None:
    said = run(*push_of(files)).stdout
    assert said.startswith("net@1 is registered\n")
    assert "edge-registry profile add" in said


@pytest.mark.parametrize(
    ("kind", "words"),
    [("inspect", "net@1 is not registered: the net is empty."), ("build", "net@1 is registered, but its variants")],
)
def test_push_whose_job_fails_exits_1_with_the_jobs_sentence(
    run: Run, files: dict[str, str], registry: Registry, failing_worker: Callable[[str], None], kind: str, words: str
) -> None:
    run("profile", "add", "pi-4")
    failing_worker(kind)
    for flags in ((), ("--json",)):
        result = run(*push_of(files, *flags), exit_code=1)
        assert words in result.stderr
        assert "the net is empty." in result.stderr
        assert result.stderr.count("\n") == 1
        assert "rollout start" not in result.stdout
    with registry.catalogue.read() as connection:
        assert len(connection.execute(sa.select(model_versions)).all()) == (kind == "build")


def test_push_that_does_not_wait_ends_with_the_upload(
    run: Run, as_json: Callable[..., Any], files: dict[str, str]
) -> None:
    pushed = as_json(*push_of(files, "--no-wait"))
    assert pushed["jobs"] == []
    said = run(*push_of(files, "--no-wait")).stdout
    assert f"edge-registry job show {pushed['job_id']} --wait" in said
    assert as_json("job", "show", pushed["job_id"])["state"] == "queued"


def test_devices_are_listed_labelled_and_removed(run: Run, as_json: Callable[..., Any], device: str) -> None:
    assert "site=berlin" in run("device", "list").stdout
    assert as_json("device", "list", "--selector", "site=paris") == []
    assert as_json("device", "label", device, "ring=canary", "site-")["labels"] == {"ring": "canary"}
    assert "never" in run("device", "show", device).stdout
    assert "is retired" in run("device", "retire", device).stdout
    assert "is retired" in run("device", "show", device, exit_code=1).stderr
    assert "retired 20" in run("device", "list", "--retired").stdout
    (token,) = as_json("token", "list")
    assert token["device_id"] == device
    run("token", "revoke", token["token_id"])
    assert "no tokens" in run("token", "list").stdout


@pytest.mark.usefixtures("worker", "device")
def test_rollout_is_started_told_and_watched_to_its_end(
    run: Run, as_json: Callable[..., Any], files: dict[str, str], registry: Registry
) -> None:
    run(*push_of(files))
    rollout = as_json("rollout", "start", "net@1", "--to", "site=berlin", "--waves", "1,100%", "--max-failures", "2")
    assert rollout["state"] == "preparing"
    assert "will pause" in run("rollout", "pause", rollout["rollout_id"]).stdout
    assert "can't pause" in run("rollout", "pause", rollout["rollout_id"], exit_code=1).stderr
    assert "every device" not in run("rollout", "list").stdout
    assert "being built" in run("rollout", "status").stdout

    def advance(state: str, deployment: str) -> None:
        common = {"rollout_id": rollout["rollout_id"], "profile": "pi-4", "model": "net", "version": "1"}
        row = {"deployment_id": "dep-1", "device_id": "dev-1", "wave": 0, "state": deployment, "reason": "none"}
        with registry.catalogue.write() as connection:
            connection.execute(sa.delete(rollout_states))
            connection.execute(sa.delete(deployments))
            connection.execute(
                sa.insert(rollout_states).values(
                    rollout_id=rollout["rollout_id"],
                    state=state,
                    wave=0,
                    reason="",
                    last_command_id=9,
                    updated_at=time.time(),
                )
            )
            connection.execute(
                sa.insert(deployments).values(**common, **row, detail="", canary=False, updated_at=time.time())
            )

    advance("running", "downloading")
    controller = threading.Timer(1.2, advance, ("finished", "running"))
    controller.start()
    watched = run("rollout", "status", rollout["rollout_id"], "--watch").stdout
    controller.join()
    assert "net@1 running" in watched
    assert "net@1 finished" in watched
    advance("finished", "timed_out")
    run("rollout", "status", "--watch", exit_code=1)
    advance("finished", "running")
    with registry.catalogue.write() as connection:
        choice = {
            "model": "net",
            "version": "1",
            "variant_id": "v-1",
            "reason": "v is the fastest of 2.",
            "created_at": 1,
        }
        connection.execute(sa.insert(choices).values([{**choice, "profile": name} for name in ("pi-4", "pi-5")]))
        connection.execute(sa.update(deployments).values(variant_id="v-1"))
    told = run("rollout", "status").stdout.splitlines()
    assert told[-1] == "pi-4: v is the fastest of 2.", "of the profiles that this rollout has"
    assert told.count(told[-1]) == 1
    advance("stopped", "failed")
    with registry.catalogue.write() as connection:
        connection.execute(sa.update(deployments).values(variant_id="v-1", canary=True, reason="golden_mismatch"))
    assert "lane pi-4 has stopped: dev-1 refuses v-1 (golden_mismatch)" in run("rollout", "status").stdout
    assert as_json("rollout", "list")[0]["state"] == "stopped"
    run("rollout", "status", "--watch", exit_code=1)
    assert "no telemetry" in run("telemetry", "--by", "profile,variant", "--since", "1h").stdout
    assert as_json("telemetry") == []


@pytest.mark.usefixtures("worker", "device")
def test_rollout_start_by_name_takes_the_newest_version(
    run: Run, as_json: Callable[..., Any], files: dict[str, str]
) -> None:
    run(*push_of(files))
    run(*push_of(files, "--version", "2"))
    assert " of net@2 is preparing" in run("rollout", "start", "net").stdout
    assert as_json("rollout", "start", "net@1")["version"] == "1"


@pytest.mark.usefixtures("worker", "device")
def test_rollout_start_dry_run_prints_the_plan_and_starts_nothing(
    run: Run, as_json: Callable[..., Any], files: dict[str, str]
) -> None:
    run(*push_of(files))
    schedule = ("--start-at", "2030-01-01T02:00+01:00", "--waves", "1,100%", "--approve-waves", "last", "--dry-run")
    told = run("rollout", "start", "net@1", *schedule).stdout
    assert "would go: net@1 to every device; nothing was started" in told
    assert "dev-1" in told
    assert "to be built" in told
    found = as_json("rollout", "start", "net@1", *schedule)
    assert found["waves"][1]["approval"]
    assert found["devices"][0]["earliest_at"] == 1893459600.0
    assert "no rollouts" in run("rollout", "list").stdout


@pytest.mark.usefixtures("worker", "device")
@pytest.mark.parametrize(
    ("meant", "words"),
    [
        ("met", "There is no model met; did you mean net?"),
        ("met@1", "There is no model met; did you mean net?"),
        ("net@9", "There is no version 9 of model net: it has 1;"),
    ],
)
def test_rollout_start_of_what_is_not_there_names_what_is(
    run: Run, files: dict[str, str], meant: str, words: str
) -> None:
    run(*push_of(files))
    said = run("rollout", "start", meant, exit_code=1).stderr
    assert words in said
    assert said.count("\n") == 1
    assert "no rollouts" in run("rollout", "list").stdout


def test_gc_says_what_goes_and_leaves_the_deleting_to_the_owners(
    run: Run, as_json: Callable[..., Any], registry: Registry
) -> None:
    state = {"rollout_id": "r", "state": "finished", "wave": 0, "reason": "", "last_command_id": 0, "updated_at": 1.0}
    decision = {"rollout_id": "r", "at": 1.0, "action": "finished", "sentence": "s", "numbers": {}}
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(rollout_states).values(state))
        connection.execute(sa.insert(decisions), [decision, decision])  # the latest of all stays
    said = run("gc", "--dry-run").stdout
    assert "would go" in said
    assert "nothing was deleted" in said
    assert latest_request(registry.catalogue) == 0, "nobody was asked to delete anything"
    for flags in (("--dry-run",), ()):
        told = as_json("gc", *flags)
        assert told["dry_run"] is bool(flags)
        assert {one["kind"] for one in told["swept"]} == {"reports", "merged", "decisions", "objects", "cache"}
        assert next(one["count"] for one in told["swept"] if one["kind"] == "decisions") == 1
    first = latest_request(registry.catalogue)
    assert "processes delete it now" in run("gc").stdout
    assert latest_request(registry.catalogue) > first > 0
    with registry.catalogue.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(decisions)).scalar() == 2, "not by the API"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rollout", "start", "net@"), "not MODEL@VERSION"),
        (("rollout", "start", "net@1", "--waves", "50%,10%"), "must grow"),
        (("rollout", "start", "../x@1"), "1 to 63 letters"),
        (("rollout", "start", "net@1", "--start-at", "soon"), "is no moment"),
        (("rollout", "start", "net@1", "--window", "22-04"), "22:00-04:00"),
        (("rollout", "start", "net@1", "--time-zone", "Mars"), "is no time zone"),
        (("rollout", "start", "net@1", "--approve-waves", "first"), "names no waves"),
        (("rollout", "start", "net@1", "--approve-waves", "2"), "names wave 2, but there are 1"),
        (("token", "create", "--valid", "soon"), "no duration"),
        (("token", "create", "--label", "site"), "KEY=VALUE"),
        (("device", "label", "dev-1", "x"), "KEY=VALUE"),
        (("model", "push"), "Missing argument"),
        (("profile", "list", "--registry", "ftp://x"), "no address of a registry"),
        (("nonsense",), "No such command"),
    ],
)
def test_usage_errors_exit_2(run: Run, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(*arguments, exit_code=2).stderr


def test_without_an_address_the_stack_of_this_machine_is_meant(all_work: Registry, tmp_path: Path) -> None:
    state = {"host": "h", "ports": {}, "api_url": all_work.url, "mqtt_url": "", "s3_endpoint": "", "s3_bucket": ""}
    environment = {"SHOAL_REGISTRY": None, "SHOAL_DATA_DIR": str(tmp_path / "here")}
    nothing = CliRunner().invoke(app, ["status"], env=environment)
    assert nothing.exit_code == 1
    assert "No registry has run on this machine" in nothing.stderr
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "stack.json").write_text(json.dumps(state))
    assert CliRunner().invoke(app, ["status"], env=environment).exit_code == 0


def test_nobody_at_the_address_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["status", "--registry", "http://127.0.0.1:9"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "No registry answers at http://127.0.0.1:9" in result.stderr
