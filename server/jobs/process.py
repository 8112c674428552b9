"""Run one job process within its limits, and say in one sentence how it ended. Knows neither database nor storage."""

import json
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from compressors.contract import FAILED_EXIT_CODE, JobFailure, ProgressLine
from server.jobs import cell
from server.jobs.errors import BadResultError, JobCrashedError, JobError, JobMemoryError, JobTimeoutError

TAIL_BYTES: Final = 8192
LINE_BYTES: Final = 4096
LOOK_EVERY_S: Final = 0.2
STOP_GRACE_S: Final = 5.0
RESULT_LIMIT_BYTES: Final = 64 * 1024 * 1024
GIB: Final = 1024**3
# How the libraries that jobs use say that memory ran out.
MEMORY_WORDS: Final = (
    "MemoryError",
    "bad_alloc",
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "Unable to allocate",
    "out of memory",
    "RESOURCE_EXHAUSTED",
)


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What one job may use; each of its processes for itself, except for the time."""

    memory_bytes: int
    wall_s: float
    cpu_s: int
    file_bytes: int = 8 * GIB
    processes: int = 4096
    """Of the user in all, threads included: the kernel counts no smaller unit. It stops a fork bomb, nothing finer."""
    open_files: int = 1024

    @classmethod
    def of(cls, *, memory_bytes: int, timeout_s: float) -> "JobLimits":
        """The limits that follow from the two settings."""
        return cls(memory_bytes=memory_bytes, wall_s=timeout_s, cpu_s=int(timeout_s * (os.cpu_count() or 1)) + 1)


@dataclass(slots=True)
class _Ended:
    status: int
    timed_out: bool
    stderr: str


def run_job(
    argv: Sequence[str],
    *,
    folder: Path,
    result_path: Path,
    limits: JobLimits,
    on_progress: Callable[[ProgressLine], None],
    check: Callable[[], None],
) -> bytes:
    """Run a job to its end and return what it wrote to `result_path`. Call it from the main thread.

    Args:
        argv: an absolute path of a program and its arguments.
        folder: its working folder, home and place for temporary files.
        result_path: where it leaves its result.
        limits: what it may use.
        on_progress: called for each progress line.
        check: called several times a second; what it raises ends the job and leaves this function.

    Raises:
        JobError: the job failed, crashed, or exceeded a limit.
    """
    command = [sys.executable, "-I", "-S", cell.__file__, str(os.getpid()), _limits_json(limits), *argv]
    with subprocess.Popen(  # noqa: S603 - the command is ours; what comes from outside is in the request file
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=_environment(folder),
        # the supervisor of the stack kills the worker's group; the cell must outlive that to clean up
        start_new_session=True,
    ) as process:
        try:
            ended = _follow(process, limits, on_progress, check)
        finally:
            _end(process)
    if ended.stderr:
        sys.stderr.write(ended.stderr + "\n")
    if ended.timed_out:
        raise JobTimeoutError(
            f"The job took longer than {limits.wall_s:g} s and was stopped; set job_timeout_s higher, or ask for less."
        )
    if ended.status == FAILED_EXIT_CODE and result_path.is_file():
        raise _told_failure(result_path)
    if ended.status != 0:
        raise _failure(ended, limits)
    return read_result(result_path)


def read_result(path: Path) -> bytes:
    """The result file, which an attacked job may have made anything.

    Raises:
        BadResultError: missing, no ordinary file, or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadResultError("The job left a result that is no file: report this as a bug.")
            content = file.read(RESULT_LIMIT_BYTES + 1)
    except OSError as exc:
        raise BadResultError("The job ended without a result; push the model again or report this as a bug.") from exc
    if len(content) > RESULT_LIMIT_BYTES:
        raise BadResultError(f"The result of the job is larger than {RESULT_LIMIT_BYTES} bytes.")
    return content


def _limits_json(limits: JobLimits) -> str:
    return json.dumps({name: value for name, value in asdict(limits).items() if name != "wall_s"})


def _environment(folder: Path) -> dict[str, str]:
    """Only what a program needs to run: no credentials, no settings of ours, nobody's home."""
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH") if name in os.environ
    }
    place = str(folder)
    return {
        **kept,
        "HOME": place,
        "TMPDIR": place,
        "XDG_CACHE_HOME": place,
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _follow(
    process: subprocess.Popen[bytes],
    limits: JobLimits,
    on_progress: Callable[[ProgressLine], None],
    check: Callable[[], None],
) -> _Ended:
    end_s = time.monotonic() + limits.wall_s
    lines, tail = b"", b""
    timed_out = False
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(LOOK_EVERY_S):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    tail = (tail + chunk)[-TAIL_BYTES:]
                else:
                    lines = _take_lines(lines + chunk, on_progress)
            check()
            if not timed_out and time.monotonic() > end_s:
                timed_out = True
                process.terminate()  # the cell kills all of the job, which closes the pipes
    return _Ended(process.wait(), timed_out, tail.decode("utf-8", "replace").strip())


def _take_lines(text: bytes, on_progress: Callable[[ProgressLine], None]) -> bytes:
    *whole, rest = text.split(b"\n")
    for line in whole:
        try:
            on_progress(ProgressLine.model_validate_json(line[:LINE_BYTES]))
        except ValidationError:
            continue  # a library that prints
    return rest[:LINE_BYTES]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()  # the job itself dies with its cell


def _told_failure(path: Path) -> JobError:
    try:
        failure = JobFailure.model_validate_json(read_result(path))
    except ValidationError:
        return BadResultError("The job failed and did not say why in a form that we understand.")
    return JobError(failure.error.message[:2000], code=failure.error.code[:64])


def _failure(ended: _Ended, limits: JobLimits) -> JobError:
    memory = f"{limits.memory_bytes / GIB:.1f} GiB"
    if any(word in ended.stderr for word in MEMORY_WORDS):
        return JobMemoryError(
            f"The job needed more than its memory limit of {memory}; push a smaller model, or raise job_memory_bytes."
        )
    if ended.status == -signal.SIGKILL:
        return JobMemoryError(
            f"The job was killed, most likely because the machine ran out of memory (the job's own limit is {memory}); "
            "push a smaller model, or use a machine with more memory."
        )
    if ended.status == -signal.SIGXCPU:
        return JobTimeoutError(
            f"The job used more than {limits.cpu_s} s of CPU time and was stopped; set job_timeout_s higher."
        )
    if ended.status == -signal.SIGXFSZ or "File too large" in ended.stderr:
        return JobError(f"The job wrote a file larger than {limits.file_bytes / GIB:.1f} GiB and was stopped.")
    if ended.status < 0:
        name = signal.Signals(-ended.status).name
        return JobCrashedError(f"The job crashed with {name}: this model breaks a library that converts it.")
    last = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "it said nothing")
    return JobError(f"The job ended with status {ended.status}: {last.strip()[:300]}")
