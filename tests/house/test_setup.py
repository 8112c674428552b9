"""`tooling/setup.sh` with a python that only writes down what it was asked: what is made, and when it is made again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = (
    "bash",
    "cat",
    "cp",
    "cut",
    "dirname",
    "env",
    "flock",
    "grep",
    "head",
    "id",
    "mkdir",
    "rm",
    "sha256sum",
    "sleep",
    "tail",
)
FAKE_PYTHON = """#!/bin/bash
# Answers like an interpreter; `pip install` fails, dies with its caller or works, as the file `mood` says.
place=$(dirname "$CALLS")
case "$*" in
  "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo "venv $4" >>"$CALLS" ;;
  *"print(sys.executable)"*) echo "$0" ;;
  "-m pip install "*)
    echo "pip $*" >>"$CALLS"
    case "$(cat "$place/mood")" in
      killed) kill -9 "$PPID" ;;
      offline) echo "no route to the index"; exit 1 ;;
    esac ;;
esac
"""


class Checkout:
    """A copy of what the set-up reads, with a PATH that holds little more than what it calls."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        self.bin = root / "bin"
        self.calls_file = root / "calls"
        self.mood_file = root / "mood"
        for folder in (self.root, self.bin):
            folder.mkdir()
        for name in ("requirements", "tooling"):
            shutil.copytree(ROOT / name, self.root / name)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"{tool} is missing on this machine"
            (self.bin / tool).symlink_to(found)
        self.put("python3.11", FAKE_PYTHON)
        self.mood("well")

    def put(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def mood(self, mood: str) -> None:
        self.mood_file.write_text(mood)

    def setup(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "HOME": os.environ.get("HOME", "/")}
        command = [str(self.root / "tooling" / "setup.sh"), *arguments]
        self.calls_file.write_text("")
        return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_setup_of_a_new_checkout_makes_both_environments(checkout: Checkout) -> None:
    assert checkout.setup("--python").returncode == 0
    assert [call for call in checkout.calls() if call.startswith("venv")] == ["venv .venv", "venv .venv-tflite"]
    assert any("requirements/dev.txt" in call for call in checkout.calls())
    assert any("--no-deps -r requirements/data.txt" in call for call in checkout.calls())


def test_setup_with_nothing_changed_does_and_says_nothing(checkout: Checkout) -> None:
    checkout.setup("--python")
    done = checkout.setup("--python")
    assert (done.returncode, done.stdout, done.stderr, checkout.calls()) == (0, "", "", [])


def test_setup_after_a_lock_changed_installs_again_into_the_same_environment(checkout: Checkout) -> None:
    checkout.setup("--python")
    with (checkout.root / "requirements" / "agent-tflite.txt").open("a") as lock:
        lock.write("six==1.17.0\n")
    assert checkout.setup("--python").returncode == 0
    assert checkout.calls()
    assert all("agent-tflite.txt" in call or "--editable" in call for call in checkout.calls())


def test_setup_killed_while_pip_installs_makes_the_environment_anew(checkout: Checkout) -> None:
    checkout.mood("killed")
    assert checkout.setup("--python").returncode != 0
    checkout.mood("well")
    assert checkout.setup("--python").returncode == 0
    assert checkout.calls()[0] == "venv .venv"
    assert checkout.setup("--python").stderr == ""


def test_setup_without_network_names_the_log(checkout: Checkout) -> None:
    checkout.mood("offline")
    done = checkout.setup("--python")
    assert done.returncode == 1
    assert "no route to the index" in done.stderr
    assert str(checkout.root / ".setup.log") in done.stderr


def test_setup_of_a_moved_checkout_makes_the_environment_anew(checkout: Checkout) -> None:
    checkout.setup("--python")
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.setup("--python").returncode == 0
    assert checkout.calls()[0] == "venv .venv"


def test_setup_without_a_python_that_is_new_enough_says_what_to_install(checkout: Checkout) -> None:
    checkout.put("python3.11", "#!/bin/bash\nexit 127\n")
    done = checkout.setup("--python")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: Shoal needs Python 3.11 or newer")
    assert len(done.stderr.splitlines()) == 1


def test_setup_where_debian_packages_cannot_be_installed_names_them(checkout: Checkout) -> None:
    script = checkout.root / "tooling" / "setup.sh"
    script.write_text(script.read_text().replace("mosquitto:mosquitto ip:iproute2", "no-such-tool:some-package"))
    done = checkout.setup()
    assert done.returncode == 1
    assert "missing: some-package" in done.stderr
    assert "no apt-get" in done.stderr
    assert checkout.calls() == []


def test_setup_for_the_demo_installs_its_lock_and_later_the_rest_into_the_same_environment(checkout: Checkout) -> None:
    assert checkout.setup("--demo").returncode == 0
    assert any("requirements/demo.txt" in call for call in checkout.calls())
    assert not any("requirements/dev.txt" in call for call in checkout.calls())
    assert checkout.setup("--python").returncode == 0
    assert any("requirements/dev.txt" in call for call in checkout.calls())
    assert "venv .venv" not in checkout.calls()


def test_setup_for_the_demo_with_everything_installed_installs_nothing(checkout: Checkout) -> None:
    checkout.setup("--python")
    done = checkout.setup("--demo")
    assert (done.returncode, done.stderr, checkout.calls()) == (0, "", [])
