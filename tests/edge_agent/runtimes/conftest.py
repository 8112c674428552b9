"""Files from the real converter and quantizer, made once for a run of the tests, however many workers there are."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `float.tflite`, `dynamic.tflite`, `int8.tflite` and the network's own `answers.npz`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "converted"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker makes them, the others wait
        if not (folder / "int8.tflite").exists():
            script = Path(__file__).parent / "make_converted.py"
            subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=100)
    return folder
