"""The network `shapes` in every format, written once by the libraries that users write them with."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.compressors.conftest import Shared

REPOSITORY = Path(__file__).resolve().parents[3]
WRITERS = ("keras", "onnx", "tensorflow")


@pytest.fixture(scope="session")
def foreign(shared: Shared, uploads: Path) -> Path:
    """A folder with `shapes` as .onnx, .keras, .h5, .tflite, .zip and .tar.gz, its data, and hostile SavedModels."""
    missing = [name for name in WRITERS if find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: it is what writes these files")

    def make(folder: Path) -> None:
        """In a process of its own, where Keras runs on TensorFlow."""
        script = Path(__file__).with_name("models.py")
        command = [sys.executable, str(script), str(folder), str(uploads)]
        subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)

    return shared.once("foreign", make)
