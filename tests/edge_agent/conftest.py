"""Real model files for the real interpreters, written in milliseconds: no converter, no download."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.protocol.manifest import Encoding, FileRole, Golden, ObjectDescriptor, PayloadFile, VariantManifest
from edge_agent.protocol.profile import DELEGATES_OF, FORMAT_OF, Delegate, FileFormat, RuntimeName
from edge_agent.runtimes.convert import bind
from edge_agent.runtimes.registry import open_runtime
from tests.edge_agent.surroundings import litert_files, onnx_files
from tests.edge_agent.surroundings.broker import Broker
from tests.edge_agent.surroundings.device import Device
from tests.edge_agent.surroundings.http_registry import HttpRegistry
from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
from tests.edge_agent.surroundings.toy_variant import ToyVariant, make_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_agent.protocol.signature import ModelSignature

REPOSITORY = Path(__file__).resolve().parents[2]


def make_manifest(
    model_path: Path,
    signature: ModelSignature,
    *,
    model: str = "tiny",
    version: str = "1",
    golden: tuple[Path, float] | None = None,
    runtime: RuntimeName = RuntimeName.LITERT,
    delegate: Delegate | None = None,
) -> VariantManifest:
    """What the registry would say of this file; `golden`: an archive and its tolerance."""
    data = model_path.read_bytes()
    here = RuntimeName.LITERT if runtime is RuntimeName.TFLITE else runtime
    plainest = Delegate.NONE if Delegate.NONE in DELEGATES_OF[here] else DELEGATES_OF[here][0]
    loaded = open_runtime(here).load(model_path, threads=1, delegate=plainest)
    files = [
        PayloadFile(role=FileRole.MODEL, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)),
    ]
    if golden is not None:
        content = golden[0].read_bytes()
        files.append(
            PayloadFile(role=FileRole.GOLDEN, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        )
    return VariantManifest(
        variant_id=f"{model}-{version}-variant",
        model=model,
        version=version,
        profile="bench",
        recipe="test",
        runtime=runtime,
        delegate=delegate or DELEGATES_OF[runtime][0],
        signature=signature,
        inputs=bind(signature.inputs, loaded.inputs),
        outputs=bind(signature.outputs, loaded.outputs),
        files=tuple(files),
        payload_sha256=hashlib.sha256(data).hexdigest(),
        object=ObjectDescriptor.describe(data, encoding=Encoding.IDENTITY),
        golden=None if golden is None else Golden(samples=4, atol=golden[1]),
    )


@dataclass(frozen=True)
class Workshop:
    """Makes model files in one folder."""

    folder: Path
    network: litert_files.Network = field(default_factory=litert_files.Network)

    def float_file(self, *, batch: int = 1) -> Path:
        return self.network.write_float(self.folder / f"float-{batch}.tflite", batch=batch)

    def int8_file(self) -> Path:
        return self.network.write_int8(self.folder / "int8.tflite")

    def uint8_file(self) -> Path:
        return self.network.write_int8(self.folder / "uint8.tflite", unsigned_ends=True)

    def pair_file(self) -> Path:
        return litert_files.write_pair(self.folder / "pair.tflite")

    def embedding_file(self) -> tuple[Path, ModelSignature]:
        return litert_files.write_embedding(self.folder / "embedding.tflite"), litert_files.EMBEDDING

    def onnx_file(self, *, batch: int | str = 1) -> Path:
        return onnx_files.write_layers(self.folder / f"float-{batch}.onnx", self.network.weights, batch=batch)

    def hungry_file(self) -> tuple[Path, ModelSignature]:
        return litert_files.write_hungry(self.folder / "hungry.tflite")

    def with_network(self, *, features: int = 8, hidden: int = 16, classes: int = 4, seed: int = 1) -> Workshop:
        folder = self.folder / f"{features}-{hidden}-{classes}-{seed}"
        folder.mkdir(exist_ok=True)
        return Workshop(folder, litert_files.Network(features, hidden, classes, seed))

    def golden_file(self, *, wrong_by: float = 0.0) -> Path:
        rows = self.network.samples(4)
        path = self.folder / f"golden{wrong_by}.npz"
        np.savez(path, in_0=rows, out_0=self.network.expected(rows) + np.float32(wrong_by))
        return path


@pytest.fixture(scope="session")
def workshop_at() -> Callable[[Path], Workshop]:
    """A workshop in a folder of one's own, for fixtures that outlive a test."""
    return Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    folder = tmp_path / "models"
    folder.mkdir()
    return Workshop(folder)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `float.pte`, `int8.pte` (the workshop's network) and `embedding.pte`, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "int8.pte").exists():
            weights = {
                f"{kind}{i}": a
                for i, pair in enumerate(litert_files.Network().weights)
                for kind, a in zip("wb", pair, strict=True)
            }
            np.savez(folder / "weights.npz", allow_pickle=False, **weights)
            script = REPOSITORY / "tests/edge_agent/surroundings/make_programs.py"
            command = [sys.executable, str(script), str(folder / "weights.npz"), str(folder)]
            subprocess.run(command, check=True, capture_output=True, timeout=100)
    return folder


@pytest.fixture
def float_file_for(workshop: Workshop, programs: Path) -> Callable[[RuntimeName], Path]:
    """The workshop's network in float, in the format that a runtime loads."""

    def file_for(runtime: RuntimeName) -> Path:
        kind = FORMAT_OF[runtime]
        if kind is FileFormat.PTE:
            return programs / "float.pte"
        return workshop.onnx_file() if kind is FileFormat.ONNX else workshop.float_file()

    return file_for


@pytest.fixture
def pair_signature() -> ModelSignature:
    return litert_files.PAIR


@pytest.fixture(scope="session")
def manifest_of() -> Callable[..., VariantManifest]:
    return make_manifest


@pytest.fixture(scope="session")
def tflite_python() -> Path:
    """The Python that has tflite-runtime 2.14 (and numpy < 2); `make setup` makes it."""
    python = REPOSITORY / ".venv-tflite" / "bin" / "python"
    if not python.exists():
        pytest.fail("there is no .venv-tflite: run `make setup`, which makes the environment of tflite-runtime")
    return python


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Broker(folder)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def registry(broker: Broker) -> Iterator[MqttRegistry]:
    registry = MqttRegistry(broker.url)
    yield registry
    registry.close()


@pytest.fixture
def http_registry(broker: Broker) -> Iterator[HttpRegistry]:
    server = HttpRegistry(broker.url)
    yield server
    server.stop()


@pytest.fixture
def device(broker: Broker) -> Iterator[Device]:
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))  # short: Unix socket paths end at 107 bytes
    device = Device(folder / "agent", broker.url)
    device.join()
    yield device
    try:
        if device.process is not None and device.process.poll() is None:
            device.stop()
    finally:
        device.kill()
        if os.environ.get("SHOAL_TEST_LOGS"):
            sys.stderr.write(device.log if (folder / "agent.log").exists() else "")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def variant_of() -> Callable[..., ToyVariant]:
    return make_variant
