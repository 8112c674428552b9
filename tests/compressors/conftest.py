"""Two small networks, trained in seconds and exported for real, their data, and builds of them that all tests share."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.protocol.profile import Arch, Cpu, DeviceProfile, Limits, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Callable


REPOSITORY = Path(__file__).resolve().parents[2]
HOST_CPU = "Test-CPU"


@dataclass(frozen=True)
class Upload:
    """What a user pushes."""

    model: Path
    data: Path


@dataclass(frozen=True)
class JobRun:
    """A job that ended."""

    code: int
    result: dict[str, Any]
    progress: list[dict[str, Any]]
    stderr: str


class Shared:
    """Makes each expensive thing once for all workers of a test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder `name`, filled by `make` by whoever comes first; the others wait."""
        target = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                unfinished = self.folder / f"{name}.unfinished-{os.getpid()}"
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(target)
        return target


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    base = tmp_path_factory.getbasetemp()
    return Shared((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compressors")


def _make_uploads(folder: Path) -> None:
    """In a process of its own: torch takes seconds to import, and most tests do without it."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("networks.py")), str(folder)], check=True)


@pytest.fixture(scope="session")
def uploads(shared: Shared) -> Path:
    """The folder of exported archives and their data."""
    return shared.once("uploads", _make_uploads)


@pytest.fixture(scope="session")
def price(uploads: Path) -> Upload:
    return Upload(uploads / "price.pt2", uploads / "price.npz")


@pytest.fixture(scope="session")
def shapes(uploads: Path) -> Upload:
    return Upload(uploads / "shapes.pt2", uploads / "shapes.npz")


@pytest.fixture(scope="session")
def pythons() -> dict[str, str]:
    """Both environments; `make setup` makes the second."""
    tflite = REPOSITORY / ".venv-tflite" / "bin" / "python"
    if not tflite.exists():
        pytest.fail("there is no .venv-tflite: run `make setup`, which makes the environment of tflite-runtime")
    return {"litert": sys.executable, "tflite": str(tflite)}


def profile(name: str, *, limits: Limits | None = None, cpu: str = "Cortex-A72", **fields: Any) -> DeviceProfile:  # noqa: ANN401
    """A small board."""
    return DeviceProfile(
        **{
            "name": name,
            "arch": Arch.AARCH64,
            "cpu": Cpu(model=cpu, cores=4),
            "ram_bytes": 1 << 30,
            "storage_bytes": 1 << 30,
            "runtimes": (RuntimeName.LITERT, RuntimeName.TFLITE),
            "limits": limits or Limits(),
            **fields,
        }
    )


def run_job(verb: str, request: dict[str, Any], folder: Path) -> JobRun:
    """Run a job as a worker would."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, told = folder / "request.json", folder / "result.json"
    asked.write_text(json.dumps(request))
    told.unlink(missing_ok=True)
    ended = subprocess.run(
        [sys.executable, "-m", "compressors.job", verb, str(asked), str(told)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"},
    )
    result = json.loads(told.read_text()) if told.exists() else {}
    return JobRun(ended.returncode, result, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr)


def inputs_of(upload: Upload, *, task: str, metric: str) -> dict[str, Any]:
    """The part of a request that both verbs share."""
    return {
        "model": "net",
        "version": "1",
        "model_path": str(upload.model),
        "data_path": str(upload.data),
        "task": task,
        "metric": metric,
    }


def written(shared: Shared, name: str, verb: str, request: Callable[[Path], dict[str, Any]]) -> tuple[Path, JobRun]:
    """A job that is run once for all tests: its folder and how it ended."""

    def make(folder: Path) -> None:
        ended = run_job(verb, request(folder), folder)
        (folder / "run.json").write_text(json.dumps([ended.code, ended.result, ended.progress, ended.stderr]))

    folder = shared.once(name, make)
    return folder, JobRun(*json.loads((folder / "run.json").read_text()))
