"""Arm Ethos-U: Vela compiles a fully integer `.tflite` file, and tells what runs where and at what price.

Cycles and times are Vela's estimates from its own model of the processor and its memories, never measurements.
Source: Vela's OPTIONS.md and PERFORMANCE.md (ethos-u-vela 5.2). Needs the extra `ethos-u`.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from compressors.errors import ConversionError
from compressors.extras import extra

Accelerator = Literal[
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-128",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
]
ACCELERATORS: tuple[Accelerator, ...] = get_args(Accelerator)
CONFIGURATION = "Arm/vela.ini"  # comes with Vela
# memories as Arm describes them for each family; they decide the estimates, and where a file's buffers lie
SYSTEMS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_High_End", "Dedicated_Sram"),
    "ethos-u85": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram"),
}
TIMEOUT_S = 600.0
_KIB = 1024.0
_ERROR_CLASS = re.compile(r"^[\w.]*(Error|Exception): ")


@dataclass(frozen=True)
class Placed:
    """An operator after compilation."""

    name: str  # of its output
    kind: str
    on_npu: bool
    cycles: int


@dataclass(frozen=True)
class Compiled:
    """A file for the processor, and Vela's report about it."""

    content: bytes
    operators: tuple[Placed, ...]
    cycles: int
    inference_ms: float
    sram_bytes: int
    dram_bytes: int

    @property
    def fallen_back(self) -> tuple[Placed, ...]:
        """The operators that stay on the CPU."""
        return tuple(one for one in self.operators if not one.on_npu)


def compile_file(content: bytes, accelerator: Accelerator) -> Compiled:
    """Compile a `.tflite` file.

    Raises:
        ConversionError: Vela refuses it, in its own words.
        ExtraMissingError: the extra `ethos-u` is not installed.
    """
    with extra("ethos-u"):
        import ethosu.vela  # noqa: F401, PLC0415  only whether it is there: it runs in a process of its own
    system, memory = SYSTEMS[accelerator.rsplit("-", 1)[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(content)
        options = {"--accelerator-config": accelerator, "--config": CONFIGURATION, "--output-dir": name}
        options |= {"--system-config": system, "--memory-mode": memory}
        _run([str(folder / "model.tflite"), *(part for option in options.items() for part in option)])
        summary = _rows(folder / f"model_summary_{system}.csv")[0]
        return Compiled(
            content=(folder / "model_vela.tflite").read_bytes(),
            operators=tuple(map(_placed, _rows(folder / "model_per-layer.csv"))),
            cycles=int(float(summary["cycles_total"])),
            inference_ms=float(summary["inference_time"]) * 1e3,
            sram_bytes=round(float(summary["sram_memory_used"]) * _KIB),
            dram_bytes=round(float(summary["dram_memory_used"]) * _KIB),
        )


def _run(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "ethosu.vela", *arguments, "--verbose-performance"]  # it writes the layers
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as exc:
        raise ConversionError(f"Vela did not finish within {TIMEOUT_S:.0f} s: use a smaller network") from exc
    if ended.returncode != 0:
        said = last_words(ended.stderr) or last_words(ended.stdout) or f"it ended with {ended.returncode}"
        raise ConversionError(f"Vela can't compile this file: {said}; replace the layer that it names, or use the CPU")


def last_words(output: str) -> str:
    """What Vela says last; where it ends with a traceback, only the sentence of the error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return _ERROR_CLASS.sub("", lines[-1], count=1)[:300] if lines else ""


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except OSError as exc:
        raise ConversionError(f"Vela wrote no report {path.name}: its release is not one that is understood") from exc


def _placed(row: dict[str, str]) -> Placed:
    return Placed(
        name=row["Name"].strip(),
        kind=row["NNG Operator"].strip(),
        on_npu=row["Target"].strip() == "NPU",
        cycles=int(float(row["Op Cycles"] or 0)),
    )
