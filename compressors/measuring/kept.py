"""Measurements of earlier builds on this host: the same file on the same runtime with the same rows is measured once.

Workers may share the folder: what another CPU measured is not found. What is kept are figures of one host and outputs,
never verdicts: each profile is judged anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.runtimes.measure import MeasureResult
from edge_agent.runtimes.registry import PACKAGES

if TYPE_CHECKING:
    from edge_agent.runtimes.measure import MeasureRequest

FORMAT = "measurement-1"
CPU_INFO = Path("/proc/cpuinfo")
NAMES_OF_CPU = {  # what tells two CPUs apart, on x86 and on Arm; other lines change from second to second
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
}


class KeptMeasurements:
    """A folder of results and outputs; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, *, renew: bool = False) -> None:
        """`renew`: what stands there already is not read, and written anew."""
        self._folder, self._renew = folder, renew
        self._sha256_of_data: dict[Path, str] = {}

    def key(self, request: MeasureRequest, python: Path) -> str:
        """What decides a measurement: the file, the rows, the target, the environment that runs it, and the CPU."""
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
            *_cpu(),
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
    """The interpreter, and which versions of the runtimes and of numpy are installed for it, by pip or by Debian."""
    runtimes = (package.distribution.replace("-", "_") for package in PACKAGES.values())
    patterns = [f"{name}-*.*-info" for name in (*runtimes, "numpy", "torch")]
    prefixes = dict.fromkeys(
        (python.parent.parent, python.resolve().parent.parent)
    )  # its own, and the one it is made of
    libraries = [prefix / place for prefix in prefixes for place in ("lib", "local/lib")]
    folders = [folder for library in libraries for folder in sorted(library.glob("python3*/*-packages"))]
    found = [path.name for folder in folders for one in patterns for path in sorted(folder.glob(one))]
    return [str(python), *found]


def _cpu() -> list[str]:
    """The lines that name the CPU, each once; none where the kernel tells nothing."""
    try:
        lines = CPU_INFO.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    return sorted({line for line in lines if line.partition(":")[0].strip() in NAMES_OF_CPU})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
