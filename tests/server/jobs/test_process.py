"""The limits of a job process, with real processes that break them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from compressors.contract import ProgressLine
from server.jobs.errors import (
    BadResultError,
    JobCrashedError,
    JobError,
    JobMemoryError,
    JobTimeoutError,
    StopRequestedError,
)
from server.jobs.process import JobLimits, run_job

MakeProgram = Callable[[str], tuple[str, ...]]
MIB = 1024 * 1024
DONE = "import sys; open(sys.argv[3], 'w').write('done')\n"


def limits(*, wall_s: float = 20.0, cpu_s: int = 20, file_bytes: int = 16 * MIB) -> JobLimits:
    return JobLimits(memory_bytes=256 * MIB, wall_s=wall_s, cpu_s=cpu_s, file_bytes=file_bytes)


def run(
    folder: Path,
    program: tuple[str, ...],
    within: JobLimits | None = None,
    check: Callable[[], None] = lambda: None,
    seen: list[ProgressLine] | None = None,
) -> bytes:
    result = folder / "result.json"
    lines = [] if seen is None else seen
    return run_job(
        [*program, "inspect", str(folder / "request.json"), str(result)],
        folder=folder,
        result_path=result,
        limits=within or limits(),
        on_progress=lines.append,
        check=check,
    )


def network_can_be_left() -> bool:
    """Whether another tool may do here what the cell does."""
    ways = (["unshare", "--net", "true"], ["unshare", "--user", "--net", "true"])
    return any(subprocess.run(way, capture_output=True, check=False).returncode == 0 for way in ways)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "job"
    path.mkdir()
    return path


def test_run_job_good_program_gives_its_result_and_progress(folder: Path, program: MakeProgram) -> None:
    seen: list[ProgressLine] = []
    source = 'print(\'noise\')\nprint(\'{"stage":"converting","done":1,"of":3}\')\n' + DONE
    assert run(folder, program(source), seen=seen) == b"done"
    assert seen == [ProgressLine(stage="converting", done=1, of=3)]


def test_run_job_sees_no_credentials_and_no_core_dumps(
    folder: Path, program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHOAL_S3_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "a secret")
    source = (
        "import json, os, resource, sys\n"
        "core = resource.getrlimit(resource.RLIMIT_CORE)\n"
        "json.dump([dict(os.environ), os.getcwd(), core, os.getpid() == os.getsid(0)], open(sys.argv[3], 'w'))"
    )
    environment, cwd, core, own_session = json.loads(run(folder, program(source)))
    assert "a secret" not in environment.values()
    assert not [name for name in environment if name.startswith(("SHOAL", "AWS"))]
    assert (environment["HOME"], cwd, core, own_session) == (str(folder), str(folder), [0, 0], True)


def test_run_job_reaches_no_server_of_this_machine(folder: Path, program: MakeProgram) -> None:
    source = (
        "import socket, sys\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', PORT), 2)\n"
        "    said = 'reached it'\n"
        "except OSError as exc:\n"
        "    said = 'no network'\n"
        "open(sys.argv[3], 'w').write(said)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = run(folder, program(source.replace("PORT", str(server.getsockname()[1]))))
    if not network_can_be_left():
        pytest.skip("the kernel lets this user make no network of its own")
    assert said == b"no network"


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        pytest.param("b = bytearray(1 << 30)", JobMemoryError, "memory limit of 0.2 GiB", id="memory hog"),
        pytest.param("import os, signal; os.kill(os.getpid(), 9)", JobMemoryError, "killed", id="out of memory killer"),
        pytest.param("import os; os.abort()", JobCrashedError, "SIGABRT", id="abort"),
        pytest.param("import os; os.kill(os.getpid(), 11)", JobCrashedError, "SIGSEGV", id="segmentation fault"),
        pytest.param("while True: pass", JobTimeoutError, "CPU time", id="busy loop"),
        pytest.param("raise SystemExit('no such op')", JobError, "no such op", id="exit with words"),
        pytest.param("open('big', 'wb').write(bytes(32 << 20))", JobError, "larger than", id="huge file"),
        pytest.param("pass", BadResultError, "without a result", id="no result"),
        pytest.param("import os, sys; os.symlink('/etc/passwd', sys.argv[3])", BadResultError, "result", id="link"),
        pytest.param("import os, sys; os.mkfifo(sys.argv[3])", BadResultError, "no file", id="pipe for a result"),
        pytest.param(DONE + "sys.exit(2)", BadResultError, "did not say why", id="failure without words"),
        pytest.param(
            'import sys; open(sys.argv[3], \'w\').write(\'{"error":{"code":"bad_data","message":"No rows."}}\')\n'
            "sys.exit(2)",
            JobError,
            "No rows.",
            id="failure with words",
        ),
    ],
)
def test_run_job_bad_program_ends_with_one_sentence(
    folder: Path, program: MakeProgram, source: str, error: type[JobError], words: str
) -> None:
    with pytest.raises(error) as caught:
        run(folder, program(source), limits(cpu_s=1))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_run_job_that_hangs_is_ended_with_all_its_children(folder: Path, program: MakeProgram) -> None:
    source = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    with pytest.raises(JobTimeoutError, match=r"longer than 1\.5 s"):
        run(folder, program(source), limits(wall_s=1.5))
    assert not psutil.pid_exists(int((folder / "pid").read_text()))


def test_run_job_stop_request_ends_it_at_once(folder: Path, program: MakeProgram) -> None:
    def check() -> None:
        raise StopRequestedError("stop")

    began_s = time.monotonic()
    with pytest.raises(StopRequestedError):
        run(folder, program("import time; time.sleep(60)"), check=check)
    assert time.monotonic() - began_s < 3


def test_run_job_worker_killed_takes_the_job_with_it(tmp_path: Path, folder: Path, program: MakeProgram) -> None:
    job = program(
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid} ')\n"
        "time.sleep(60)"
    )
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys\nfrom pathlib import Path\nfrom server.jobs.process import JobLimits, run_job\n"
        f"run_job({job!r}, folder=Path({str(folder)!r}), result_path=Path('r'), "
        "limits=JobLimits(memory_bytes=1 << 28, wall_s=60, cpu_s=60), on_progress=print, check=lambda: None)"
    )
    process = subprocess.Popen([sys.executable, str(worker)])
    pids = folder / "pids"
    end_s = time.monotonic() + 15
    while not (pids.exists() and pids.read_text().endswith(" ")):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    numbers = [int(word) for word in pids.read_text().split()]
    while any(psutil.pid_exists(number) for number in numbers):
        assert time.monotonic() < end_s, os.listdir(folder)  # noqa: PTH208  a message
        time.sleep(0.02)
