"""Rockchip NPUs: rknn-toolkit2 compiles an ONNX file in an environment of its own, and its simulator answers for it.

The toolkit wants numpy < 2 and an older torch than ours, so it never shares our environment. No agent runs its files.
Source: Rockchip RKNN SDK user guide 2.x (RKNN-Toolkit2 API).
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressors.errors import ConversionError, ExtraMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[np.generic]]

PLATFORMS = ("rk3562", "rk3566", "rk3568", "rk3576", "rk3588")
TIMEOUT_S = 900.0
WORKER = Path(__file__).with_name("rockchip_worker.py")
_INSTALL = "make an environment for it with `tooling/rknn.sh`, as docs/how-to/npu.md says, and name its Python"


@dataclass(frozen=True)
class Simulated:
    """A file for the NPU, and what the toolkit's simulator answers for the rows: an array for each output, in order."""

    content: bytes
    outputs: tuple[NDArray[np.generic], ...]


def compile_onnx(onnx: bytes, calibration: Arrays, rows: Arrays, *, platform: str, python: Path) -> Simulated:
    """Quantize an ONNX file to int8 and compile it.

    Args:
        onnx: a float file with a batch of one.
        calibration: one array for each input, samples first, in the order of the file's inputs.
        rows: the same, for the simulator.
        platform: one of `PLATFORMS`.
        python: of the environment that has rknn-toolkit2.

    Raises:
        ExtraMissingError: the environment is not there, or lacks the toolkit; the sentence has the reason.
        ConversionError: the platform is not known, or the toolkit refuses the file.
    """
    if platform not in PLATFORMS:
        raise ConversionError(f"there is no platform {platform!r} of Rockchip's; there are {', '.join(PLATFORMS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(onnx)
        for file, arrays in (("calibration.npz", calibration), ("rows.npz", rows)):
            np.savez(folder / file, allow_pickle=False, **dict(arrays))
        _run([str(python), "-I", str(WORKER), name, platform], folder)
        with np.load(folder / "outputs.npz", allow_pickle=False) as archive:
            outputs = tuple(archive[name] for name in archive.files)
        return Simulated((folder / "model.rknn").read_bytes(), outputs)


def _run(command: list[str], folder: Path) -> None:
    try:
        ended = subprocess.run(  # noqa: S603  the Python is the caller's
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder
        )
    except OSError as exc:
        raise ExtraMissingError(f"{command[0]} can't be started ({exc.strerror}): {_INSTALL}") from exc
    except subprocess.TimeoutExpired as exc:
        raise ConversionError(f"rknn-toolkit2 did not finish within {TIMEOUT_S:.0f} s: use a smaller network") from exc
    if ended.returncode == 0:
        return
    last = (ended.stderr.strip().splitlines() or ["no message"])[-1][:300]
    if "does not load" in last or "No module named" in last:
        raise ExtraMissingError(f"{last}: {_INSTALL}")
    raise ConversionError(f"the file can't be compiled for this NPU: {last}")
