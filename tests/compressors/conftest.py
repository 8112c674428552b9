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

if TYPE_CHECKING:
    from collections.abc import Callable


# before torch is imported: its threads wait for each other by spinning, and other test workers need the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[2]
HOST_CPU = "Test-CPU"
RUNTIMES = ("litert", "tflite")
Request = dict[str, Any]


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


@dataclass(frozen=True)
class Built:
    """A build that all tests share: its folder and how it ended."""

    folder: Path
    run: JobRun

    def variants(self, profile: str) -> dict[tuple[str, str, str], dict[str, Any]]:
        """The variants of a profile by recipe, runtime and delegate."""
        assert self.run.code == 0, self.run.stderr
        found = [one for one in self.run.result["variants"] if one["profile"] == profile]
        return {(one["recipe"], one["runtime"], one["delegate"]): one for one in found}

    def choice(self, profile: str) -> dict[str, Any]:
        """What a profile gets."""
        return next(one for one in self.run.result["choices"] if one["profile"] == profile)

    def written(self, sha256: str) -> bytes:
        """A file of the output folder."""
        return (self.folder / "output" / sha256).read_bytes()


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


def board(name: str, *, cpu: str = "Cortex-A72", runtimes: tuple[str, ...] = RUNTIMES, **limits: float) -> Request:
    """A profile as it stands in a request."""
    return {
        "name": name,
        "arch": "aarch64",
        "cpu": {"model": cpu, "cores": 4},
        "ram_bytes": 1 << 30,
        "storage_bytes": 1 << 30,
        "runtimes": list(runtimes),
        "limits": limits,
    }


def run_job(verb: str, request: Request, folder: Path) -> JobRun:
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


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str, Request], JobRun]:
    """Run a job of this test's own."""
    return lambda verb, request: run_job(verb, request, tmp_path / "job")


def inputs_of(upload: Upload, *, task: str, metric: str) -> Request:
    """The part of a request that both verbs share."""
    return {
        "model": "net",
        "version": "1",
        "model_path": str(upload.model),
        "data_path": str(upload.data),
        "task": task,
        "metric": metric,
    }


@pytest.fixture(scope="session")
def price_request(price: Upload, pythons: dict[str, str]) -> Request:
    """A build of the price network for five kinds of devices, without the folders."""
    return {
        "inputs": inputs_of(price, task="regression", metric="r2"),
        "profiles": [
            board("free"),
            board("another-cpu", latency_p95_ms=5.0),
            board("this-cpu", cpu=HOST_CPU, latency_p95_ms=500.0),
            board("impossible", download_bytes=100),
            board("thrifty", download_bytes=5000, runtimes=("tflite",)),
        ],
        "pythons": pythons,
        "host_cpu_model": HOST_CPU,
    }


@pytest.fixture(scope="session")
def price_build(shared: Shared, price_request: Request) -> Built:
    """That build, done once for all tests."""
    return build_once(shared, "price-build", price_request)


@pytest.fixture(scope="session")
def shapes_build(shared: Shared, shapes: Upload, pythons: dict[str, str]) -> Built:
    """The convnet on LiteRT, with every recipe, and a runtime that is not installed."""
    request = {
        "inputs": inputs_of(shapes, task="classification", metric="top1"),
        "profiles": [board("camera", runtimes=("litert",)), board("no-runtime", runtimes=("tflite",))],
        "recipes": ["float32", "dynamic-int8", "static-int8", "static-int8-floatio"],
        "pythons": {"litert": pythons["litert"], "tflite": pythons["litert"]},
    }
    return build_once(shared, "shapes-build", request)


@pytest.fixture(scope="session")
def films_build(shared: Shared, uploads: Path, pythons: dict[str, str]) -> Built:
    """A recommender with whole numbers as inputs, on both runtimes."""
    request = {
        "inputs": inputs_of(Upload(uploads / "films.pt2", uploads / "films.npz"), task="ranking", metric="hr@1"),
        "profiles": [board("shop")],
        "pythons": pythons,
    }
    return build_once(shared, "films-build", request)


def build_once(shared: Shared, name: str, request: Request) -> Built:
    """A build that all tests share, done by whoever comes first."""

    def make(folder: Path) -> None:
        folders = {"output_dir": str(folder / "output"), "cache_dir": str(folder / "cache")}
        ended = run_job("build", {**request, **folders}, folder)
        (folder / "run.json").write_text(json.dumps([ended.code, ended.result, ended.progress, ended.stderr]))

    folder = shared.once(name, make)
    return Built(folder, JobRun(*json.loads((folder / "run.json").read_text())))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever comes first builds for all, and the others wait for it, on a busy machine for minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(400))
