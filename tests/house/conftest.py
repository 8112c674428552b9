"""The built wheel, and empty environments to install it into."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run to the end in `cwd`, with nothing of this process's Python; return what it printed, fail if it fails."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "VIRTUAL"))
    }
    done = subprocess.run(command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the wheel in it, and an empty folder to stand in."""

    venv: Path
    cwd: Path

    def run(self, command: str, *arguments: str) -> str:
        return run(self.venv / "bin" / command, *arguments, cwd=self.cwd)

    def python(self, code: str) -> str:
        return self.run("python", "-c", code)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what git would hand out: a build writes into the folder that it builds from."""
    folder = tmp_path_factory.mktemp("source")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, with the setuptools that is locked."""
    target = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", target, source, cwd=target)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Environment]:
    """Install the wheel with an extra into a new environment, with the versions of a lock."""

    def install_extra(extra: str, lock: str) -> Environment:
        venv = tmp_path_factory.mktemp(f"venv-{extra}")
        run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
        pip = (sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--quiet")
        constraints = ("--disable-pip-version-check", "--constraint", str(ROOT / "requirements" / f"{lock}.txt"))
        run(*pip, *constraints, f"shoal[{extra}] @ {wheel.as_uri()}", cwd=venv)
        return Environment(venv=venv, cwd=tmp_path_factory.mktemp(f"away-{extra}"))

    return install_extra
