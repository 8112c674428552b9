from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edge_agent.supervisor import programs

if TYPE_CHECKING:
    from pathlib import Path

# root may write everywhere, so the program gives up that right
ASK = """
import os
from pathlib import Path
from edge_agent.supervisor.programs import environment
os.setgid(65534), os.setuid(65534)
print(environment(Path("/data/bytecode")).get("PYTHONPYCACHEPREFIX"))
"""


def test_own_program_runs_without_docstrings() -> None:
    assert programs.own_program("edge_agent.runner") == (sys.executable, "-OO", "-m", "edge_agent.runner")


def test_bytecode_goes_beside_the_packages_where_it_may(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(programs.PREFIX, raising=False)
    assert programs.PREFIX not in programs.environment(tmp_path)


def test_bytecode_of_packages_of_another_user_is_kept_in_the_agents_folder() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can run a program as a user who may not write here")
    clean = {name: value for name, value in os.environ.items() if name != programs.PREFIX}
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, env=clean)
    assert told.stdout.strip() == "/data/bytecode"


def test_place_that_the_user_named_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(programs.PREFIX, "/elsewhere")
    assert programs.environment(tmp_path)[programs.PREFIX] == "/elsewhere"
