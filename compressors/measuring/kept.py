"""Measurements of earlier builds on this host: the same file on the same runtime with the same rows is measured once.

What is kept are figures of this host and outputs, never verdicts: each profile is judged anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.runtimes.measure import MeasureResult
from edge_agent.runtimes.registry import PACKAGES

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.runtimes.measure import MeasureRequest

FORMAT = "measurement-1"


class KeptMeasurements:
    """A folder of results and outputs; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, *, renew: bool = False) -> None:
        """`renew`: what stands there already is not read, and written anew."""
        self._folder, self._renew = folder, renew
        self._sha256_of_data: dict[Path, str] = {}

    def key(self, request: MeasureRequest, python: Path) -> str:
        """What decides a measurement: the file, the rows, the target, and the environment that runs it."""
        data = request.data_path
        if data not in self._sha256_of_data:
            self._sha256_of_data[data] = _sha256(data)
        parts = [
            FORMAT,
            self._sha256_of_data[data],
            _sha256(request.model_path),
            request.runtime,
            request.delegate,
            request.threads,
            request.signature.model_dump_json(),
            *_environment(python),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def read(self, key: str, outputs_path: Path) -> MeasureResult | None:
        """An earlier result; its outputs are put where the measuring process would have."""
        if self._folder is None or self._renew:
            return None
        try:
            result = MeasureResult.model_validate_json((self._folder / f"{key}.json").read_bytes())
            shutil.copyfile(self._folder / f"{key}.npz", outputs_path)
        except (OSError, ValidationError):
            return None
        return result

    def write(self, key: str, result: MeasureResult, outputs_path: Path) -> None:
        """Keep a result that has figures; a failure may be this moment's, so it is tried again."""
        if self._folder is None or result.error is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{key}.npz.partial"
        shutil.copyfile(outputs_path, partial)
        partial.replace(self._folder / f"{key}.npz")
        partial = self._folder / f"{key}.json.partial"
        partial.write_text(result.model_dump_json())
        partial.replace(self._folder / f"{key}.json")  # last: without it the outputs do not count


def _environment(python: Path) -> list[str]:
    """The interpreter, and which versions of the runtimes and of numpy are installed for it."""
    runtimes = (package.distribution.replace("-", "_") for package in PACKAGES.values())
    patterns = [f"{name}-*.dist-info" for name in (*runtimes, "numpy", "torch")]
    folders = sorted((python.parent.parent / "lib").glob("python3*/site-packages"))
    found = [path.name for folder in folders for one in patterns for path in sorted(folder.glob(one))]
    return [str(python), *found]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
