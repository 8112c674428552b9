"""The locks in `requirements/`: nothing but exact pins that any index can serve, and in step with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*")
TARGETS = ("ethos-u", "executorch", "keras", "onnx", "tensorflow")
EXTRA_OF_LOCK = {
    "agent-executorch": ("agent-executorch",),
    "agent-litert": ("agent",),
    "agent-onnx": ("agent-onnx",),
    "agent-tflite": ("agent-tflite",),
    "compress": ("compress",),
    "dev": ("agent", "agent-executorch", "agent-onnx", "client", "compress", "postgresql", "server", *TARGETS),
    "server": ("server",),
}
# Environments of their own, beside the one that is tested.
MAY_DIFFER = {
    "agent-tflite": {"numpy"},
    "rknn": {"numpy", "onnx", "onnxruntime", "protobuf", "setuptools"},
}

pytestmark = pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def test_lock_lines_are_exact_public_pins(lock: Path) -> None:
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert lines == sorted(set(lines), key=lambda line: line.partition("==")[0])


def test_lock_names_no_gpu_package_and_no_address(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert [word for word in ("nvidia", "cuda", "triton==", "://", "--hash", "--index") if word in text] == []


def test_lock_agrees_with_the_environment_that_is_tested(lock: Path) -> None:
    dev, own = pins(ROOT / "requirements" / "dev.txt"), pins(lock)
    differs = {name for name in own if name in dev and dev[name] != own[name]}
    assert differs <= MAY_DIFFER.get(lock.stem, set())


def test_lock_holds_what_its_extras_ask_for(lock: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    todo, asked = [f"shoal[{extra}]" for extra in EXTRA_OF_LOCK.get(lock.stem, ())], set[str]()
    while todo:
        requirement = todo.pop()
        if own := re.fullmatch(r"shoal\[([a-z,-]+)\]", requirement):
            todo += [one for extra in own[1].split(",") for one in project["optional-dependencies"][extra]]
        elif "== 'armv7l'" not in requirement:
            asked.add(re.split(r"[^A-Za-z0-9-]", requirement, maxsplit=1)[0])
    assert asked - set(pins(lock)) == set(), "run `make lock`"


def test_numpy_is_one_for_tflite_runtime_and_rknn_toolkit_and_two_for_the_rest(lock: Path) -> None:
    major = pins(lock).get("numpy", "none").partition(".")[0]
    assert major in ({"1"} if "numpy" in MAY_DIFFER.get(lock.stem, set()) else {"2", "none"})
