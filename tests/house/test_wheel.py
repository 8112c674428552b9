"""The wheel as a user gets it: installed with one extra into an empty environment, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.processes import RunningRegistry, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.house.conftest import Environment

HEAVY = ("torch", "boto3", "botocore", "fastapi", "sqlalchemy", "alembic", "jax", "jaxlib", "litert_torch", "scipy")
# Adapters of runtimes that are extras of their own.
OTHER_RUNTIMES = ("edge_agent.runtimes.executorch", "edge_agent.runtimes.onnx")

IMPORT_ALL = """
import importlib, json, pkgutil, sys
failed = {{}}
for package in {packages!r}:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if module.name.endswith("__main__") or module.name.startswith({skip!r}):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as exc:
            failed[module.name] = str(exc)
print(json.dumps([failed, sorted(sys.modules)]))
"""

pytestmark = pytest.mark.timeout(300)


def import_all(environment: Environment, *packages: str, skip: tuple[str, ...]) -> tuple[dict[str, str], set[str]]:
    """(modules that cannot be imported and why, all that is loaded afterwards)."""
    failed, loaded = json.loads(environment.python(IMPORT_ALL.format(packages=packages, skip=skip)))
    return failed, set(loaded)


@pytest.fixture(scope="module")
def agent(install: Callable[[str, str], Environment]) -> Environment:
    return install("agent", "agent-litert")


@pytest.fixture(scope="module")
def client(install: Callable[[str, str], Environment]) -> Environment:
    return install("client", "server")


def test_wheel_holds_the_packages_and_their_data_and_nothing_else(source: Path, wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top <= {"compressors", "deploy", "edge_agent", "server"}
    suffixes = {".conf", ".css", ".html", ".ini", ".js", ".mako", ".py", ".service", ".typed", ".yaml"}
    tracked = {
        path.relative_to(source).as_posix()
        for package in ("compressors", "edge_agent", "server")
        for path in (source / package).rglob("*")
        if path.suffix in suffixes
    }
    assert tracked - set(names) == set()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_agent_installed_alone_has_nothing_heavy(agent: Environment) -> None:
    found = agent.python(f"import importlib.util as u; print([n for n in {HEAVY!r} if u.find_spec(n)])")
    assert found.strip() == "[]"


def test_agent_installed_alone_imports_every_module(agent: Environment) -> None:
    failed, loaded = import_all(agent, "edge_agent", skip=OTHER_RUNTIMES)
    assert failed == {}
    assert not loaded & {"server", "compressors", *HEAVY}
    place = agent.python("import edge_agent; print(edge_agent.__file__)")
    assert place.startswith(str(agent.venv))


def test_agent_command_helps_at_once(agent: Environment) -> None:
    assert "usage" in agent.run("edge-agent", "--help").lower()
    spent_s = []
    for _ in range(5):  # processor time: other tests run beside this one
        before = os.times()
        agent.run("edge-agent", "--help")
        after = os.times()
        spent_s.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(spent_s) < 0.3


def test_agent_profiles_are_package_data(agent: Environment) -> None:
    names = agent.python(
        "import yaml\n"
        "from importlib.resources import files\n"
        "from edge_agent.protocol.profile import DeviceProfile\n"
        "for file in files('edge_agent.profiles').iterdir():\n"
        "    if file.name.endswith('.yaml'):\n"
        "        print(DeviceProfile.model_validate(yaml.safe_load(file.read_text())).name)\n"
    ).split()
    assert len(names) >= 7
    assert len(set(names)) == len(names)


def test_client_installed_alone_runs_the_operators_command(client: Environment) -> None:
    assert "usage" in client.run("edge-registry", "--help").lower()
    failed, loaded = import_all(client, "server.client", "server.schemas", skip=())
    assert failed == {}
    assert not loaded & {"compressors", "numpy", *HEAVY}


@pytest.fixture(scope="module")
def server(install: Callable[[str, str], Environment]) -> Environment:
    return install("server", "server")


@pytest.mark.slow
def test_server_without_compressors_imports_all_but_the_job(server: Environment) -> None:
    failed, loaded = import_all(server, "server", skip=("server.jobs", "server.processes.worker"))
    assert failed == {}
    assert not loaded & {"compressors", "torch", "jax", "litert_torch"}
    failed, loaded = import_all(server, "server.jobs", "server.processes", skip=())
    assert failed == {}, "the contract of the jobs asks for pydantic alone"
    assert not loaded & {"torch", "jax", "litert_torch", "litert_quantizer", "ai_edge_litert"}
    assert "server.api" in loaded
    assert "usage" in server.run("edge-registry", "--help").lower()


@pytest.fixture
def registry(server: Environment) -> Iterator[RunningRegistry]:
    """A registry that was installed without what jobs need; its folder has a short name, as Unix sockets want."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-wheel-"))
    running = RunningRegistry(folder / "registry", commands=server.venv / "bin", cwd=server.cwd)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


@pytest.mark.slow
def test_server_without_compressors_runs_and_says_what_a_push_lacks(registry: RunningRegistry, tmp_path: Path) -> None:
    wait_until(lambda: registry.cli("status").returncode == 0, "every process has said that it works")
    exported = torch.export.export(torch.nn.Linear(8, 1).eval(), (torch.zeros(1, 8),))
    torch.export.save(exported, tmp_path / "line.pt2")
    features = np.random.default_rng(1).normal(size=(90, 8)).astype(np.float32)
    np.savez(tmp_path / "line.npz", input=features, target=features[:, 0])

    flags = (
        "--name",
        "line",
        "--version",
        "1",
        "--data",
        tmp_path / "line.npz",
        "--task",
        "regression",
        "--metric",
        "r2",
    )
    pushed = registry.cli("model", "push", tmp_path / "line.pt2", *flags)

    assert pushed.returncode == 1, pushed
    assert pushed.stderr.splitlines()[-1] == (
        "edge-registry: line@1 is not registered: jobs need torch, which is not installed where they run: "
        "pip install 'shoal[compress]' there"
    )
    assert "Traceback" not in pushed.stderr
    assert json.loads(registry.cli("model", "list", "--json").stdout) == []
