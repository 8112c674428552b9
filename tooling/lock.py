"""Write the locks in `requirements/` from the extras and dependency groups of `pyproject.toml`.

Run it with `make lock`. Pins that are there already are kept where they still fit; `make lock UPGRADE=1` resolves
everything afresh. pip does the resolving (`--dry-run --report`), so a lock holds what `pip install` would take.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LOCK_PYTHON = (3, 11)
# A CUDA build of torch drags these in. They are torch's own business where somebody wants that build, not ours.
VENDOR_PREFIXES = ("nvidia-", "cuda-")
LEFT_OUT = {"shoal", "triton"}  # `tritonclient` is no GPU package: the tests speak with it


@dataclass(frozen=True)
class Lock:
    """One environment: what it is for, and which parts of pyproject.toml it holds."""

    name: str
    purpose: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    # dev.txt is resolved first and its versions hold everywhere else, so that what is tested is what is shipped.
    follows_dev: bool = True
    # Packages whose version must differ from the one in dev.txt.
    differs: frozenset[str] = frozenset()
    # Listed exactly as the group says, without dependencies.
    bare: bool = False


LOCKS = (
    Lock(
        "dev",
        "everything that the checks, the tests, the benchmarks and the demo import",
        extras=(
            "agent",
            "client",
            "compress",
            "ethos-u",
            "executorch",
            "keras",
            "onnx",
            "postgresql",
            "server",
            "tensorflow",
        ),
        groups=("build", "demo", "dev"),
        follows_dev=False,
    ),
    Lock(
        "demo",
        "what the demo imports: a part of dev, quicker to install",
        extras=("agent", "client", "compress", "server"),
        groups=("demo",),
    ),
    Lock("build", "what building the package needs", groups=("build",)),
    Lock("server", "the registry without the compressors: API, controller, ingest, CLI", extras=("server",)),
    Lock("compress", "the registry's job workers", extras=("compress",)),
    Lock("agent-litert", "a device that infers with LiteRT", extras=("agent",)),
    Lock(
        "agent-tflite",
        "a device that infers with tflite-runtime, which needs numpy 1",
        extras=("agent-tflite",),
        differs=frozenset({"numpy"}),
    ),
    Lock("agent-onnx", "a device that infers with ONNX Runtime", extras=("agent-onnx",)),
    Lock("agent-executorch", "a device that infers with ExecuTorch", extras=("agent-executorch",)),
    Lock(
        "rknn",
        "what rknn-toolkit2 stands on, which needs numpy 1 and older ONNX packages",
        groups=("rknn",),
        differs=frozenset({"numpy", "onnx", "onnxruntime", "protobuf", "setuptools"}),
    ),
    Lock(
        "rknn-toolkit",
        "Rockchip's compiler itself: install with --no-deps after rknn",
        groups=("rknn-toolkit",),
        bare=True,
    ),
    Lock("data", "packages whose files are read, not their code: install with --no-deps", groups=("data",), bare=True),
)


def read_pins(path: Path) -> dict[str, str]:
    """Return name -> version of a lock; an absent file is an empty lock."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name: version for name, _, version in pairs}


def group_requirements(lock: Lock) -> list[str]:
    """Return the requirement strings of the lock's dependency groups."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    return [requirement for group in lock.groups for requirement in groups[group]]


def resolve(requirements: list[str], *, constraints: dict[str, str]) -> dict[str, str]:
    """Ask pip which versions it would install into an empty environment.

    All requirements go into ONE command: asked for alone, a package that wants any torch takes the newest CUDA build.

    Args:
        requirements: requirement strings, or `.[extra]` for the project itself.
        constraints: name -> version that must hold for whatever is taken.

    Returns:
        name -> version, without the project itself, local versions such as `+cpu`, and GPU vendors' packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        constraint_file, report_file = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraint_file.write_text("".join(f"{n}=={v}\n" for n, v in constraints.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--disable-pip-version-check", "--report", str(report_file), "--constraint", str(constraint_file)]
        done = subprocess.run([*command, *requirements], cwd=ROOT, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stderr}\npip found no set of versions; if an old pin is in the way: make lock UPGRADE=1")
        report = json.loads(report_file.read_text(encoding="utf-8"))
    found = (item["metadata"] for item in report["install"])
    pins = {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"].partition("+")[0] for one in found}
    return {n: v for n, v in sorted(pins.items()) if n not in LEFT_OUT and not n.startswith(VENDOR_PREFIXES)}


def write_lock(lock: Lock, pins: dict[str, str]) -> None:
    """Write `requirements/NAME.txt` with a header that says what it is and how it came about."""
    where = f"CPython {sys.version_info.major}.{sys.version_info.minor}, {platform.machine()}"
    header = (
        f"# {lock.name}: {lock.purpose}.\n"
        f"# Written by `make lock` (tooling/lock.py) from pyproject.toml on {where}; do not edit.\n"
    )
    body = "".join(f"{name}=={version}\n" for name, version in pins.items())
    (REQUIREMENTS / f"{lock.name}.txt").write_text(header + body, encoding="utf-8")
    print(f"requirements/{lock.name}.txt: {len(pins)} packages")


def constraints_for(lock: Lock, *, upgrade: bool) -> dict[str, str]:
    """Return the versions that a lock has to hold on to."""
    own = {} if upgrade else read_pins(REQUIREMENTS / f"{lock.name}.txt")
    if not lock.follows_dev:
        return own
    dev = read_pins(REQUIREMENTS / "dev.txt")
    return own | {name: version for name, version in dev.items() if name not in lock.differs}


def main() -> None:
    """Write every lock, dev first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--upgrade", action="store_true", help="forget the present pins and take the newest versions")
    upgrade: bool = parser.parse_args().upgrade
    if sys.version_info[:2] != LOCK_PYTHON:
        sys.exit("The locks are for Python 3.11, the oldest that Shoal supports: run this with python3.11.")
    REQUIREMENTS.mkdir(exist_ok=True)
    for lock in LOCKS:
        requirements = group_requirements(lock)
        if lock.bare:
            write_lock(lock, {name: version for name, _, version in (r.partition("==") for r in requirements)})
            continue
        if lock.extras:
            requirements.append(f".[{','.join(lock.extras)}]")
        write_lock(lock, resolve(requirements, constraints=constraints_for(lock, upgrade=upgrade)))


if __name__ == "__main__":
    main()
