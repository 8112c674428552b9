"""The whole road as processes: a real `edge-registry up`, real agents, and tiny real models.

Converting models takes most of the time, so a data directory with profiles, models and variants is made once for all
test workers; every test starts `up` on a copy of it.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edge_agent.probe.read import probe
from edge_agent.protocol.profile import Limits, RuntimeName
from server.schemas.catalogue import PushForm, Task
from tests.e2e.fleet import Fleet
from tests.processes import RunningRegistry

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

FORM = PushForm(task=Task.REGRESSION, metric="r2")
LOG_TAIL_BYTES = 1500


@dataclass(frozen=True)
class TinyModel:
    """Two versions of a regression network on disk, its data, and what the float network answers."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data.npz"

    def archive(self, version: str) -> Path:
        return self.folder / f"{version}.pt2"

    @property
    def rows(self) -> NDArray[np.float32]:
        """Rows to ask for."""
        with np.load(self.data) as archive:
            rows: NDArray[np.float32] = archive["features"][:32]
        return rows

    def expected(self, version: str) -> NDArray[np.float32]:
        """What the float network answers for `rows`."""
        outputs: NDArray[np.float32] = np.load(self.folder / f"{version}.expected.npy")
        return outputs


def _make_tiny_model(folder: Path) -> None:
    import torch  # noqa: PLC0415  only whoever makes the model pays for the import

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

        def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401  what torch gives
            return self.layers(features)

    rng = np.random.default_rng(3)
    features = rng.normal(size=(600, 8)).astype(np.float32)
    for seed, version in enumerate(("1", "2")):
        torch.manual_seed(seed)
        network = Network().eval()
        shapes = {"features": {0: torch.export.Dim("batch", max=4096)}}
        torch.export.save(
            torch.export.export(network, (torch.zeros(2, 8),), dynamic_shapes=shapes), folder / f"{version}.pt2"
        )
        with torch.no_grad():
            outputs = network(torch.from_numpy(features)).numpy()
        np.save(folder / f"{version}.expected.npy", outputs[:32])
        if version == "1":
            noise = rng.normal(scale=0.05, size=outputs.shape).astype(np.float32)
            np.savez(folder / "data.npz", features=features, target=outputs + noise)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One test worker at a time; the lock goes with the process."""
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """One folder for all test workers of this run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.fixture(scope="session")
def tiny_model(common_folder: Path) -> TinyModel:
    """Two versions of a network with 8 features and one output; made once for all test workers."""
    folder = common_folder / "tiny-model"
    with locked(folder):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir()
            _make_tiny_model(partial)
            partial.rename(folder)
    return TinyModel(folder)


@pytest.fixture(scope="session")
def prepared(common_folder: Path, tiny_model: TinyModel) -> Path:
    """A stopped registry that knows three profiles and two versions of `tiny` with their variants."""
    folder = common_folder / "prepared"
    with locked(folder):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir()
            registry = RunningRegistry(partial / "registry")
            try:
                registry.start()
                _fill(registry, tiny_model)
            finally:
                registry.stop()
            # ports belong to one running copy; each copy chooses its own
            (partial / "registry" / "stack.json").unlink()
            partial.rename(folder)
    return folder / "registry"


def _fill(registry: RunningRegistry, tiny: TinyModel) -> None:
    host = probe(data_dir=registry.data_dir, runtimes=(RuntimeName.LITERT,), name="bench")
    host = host.model_copy(update={"threads": 1, "npu": None})
    tflite = host.model_copy(update={"name": "bench-tflite", "runtimes": (RuntimeName.TFLITE,)})
    tight = host.model_copy(update={"name": "tight", "limits": Limits(download_bytes=64)})
    with registry.client() as client:
        for profile in (host, tflite, tight):
            client.add_profile(profile)
        for version in ("1", "2"):
            pushed = client.push_model(tiny.archive(version), name="tiny", version=version, data=tiny.data, form=FORM)
            client.wait_for_job(pushed.job_id, timeout_s=60)
            # the update from 1 to 2 is then one from float32 to int8
            recipes = ("float32",) if version == "1" else ("static-int8",)
            for job in client.build_variants("tiny", version, recipes=recipes):
                client.wait_for_job(job.job_id, timeout_s=90)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder of this test's own: paths of Unix sockets may have 107 bytes. Kept when the test fails."""
    path = Path(tempfile.mkdtemp(prefix="shoal-e2e-"))
    yield path
    if not (path / "keep").exists():
        shutil.rmtree(path)


@pytest.fixture
def registry(folder: Path, prepared: Path) -> Iterator[RunningRegistry]:
    """A running copy of the prepared registry."""
    shutil.copytree(prepared, folder / "registry", ignore=shutil.ignore_patterns("*.sock"))
    running = RunningRegistry(folder / "registry")
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def fleet(registry: RunningRegistry, folder: Path) -> Iterator[Fleet]:
    """A fleet without devices."""
    running = Fleet(registry, folder)
    yield running
    running.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say where the logs of a failed test are, and how they end; its folder is kept."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("folder")
    if report.failed and isinstance(folder, Path) and folder.exists():
        (folder / "keep").touch()
        for path in sorted([*folder.glob("*.log"), *folder.glob("registry/logs/*.log")]):
            if text := path.read_text(errors="replace")[-LOG_TAIL_BYTES:].strip():
                report.sections.append((f"end of {path}", text))
    return report
