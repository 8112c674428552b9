"""Run by path, with the Python of an environment that has rknn-toolkit2: `rockchip_worker.py FOLDER PLATFORM`.

FOLDER holds `model.onnx`, `calibration.npz` and `rows.npz`, each an array for each input, in the model's order. It gets
`model.rknn`, and `outputs.npz` with what Rockchip's simulator answers for the rows. It ends with 0, or says why not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main(folder: Path, platform: str) -> int:
    """Compile and simulate; 0, or 2 with the reason as the last line of stderr."""
    try:
        from rknn.api import RKNN  # noqa: PLC0415  the one library that this script is about
    except ImportError as exc:
        sys.stderr.write(f"rknn-toolkit2 does not load in this environment: {exc}\n")
        return 2
    compiler = RKNN(verbose=False)
    steps = {
        "the platform": lambda: compiler.config(target_platform=platform),
        "the ONNX file": lambda: compiler.load_onnx(model=str(folder / "model.onnx")),
        "the quantization": lambda: compiler.build(do_quantization=True, dataset=str(_dataset(folder))),
        "the file": lambda: compiler.export_rknn(str(folder / "model.rknn")),
        "the simulator": compiler.init_runtime,
    }
    for what, run in steps.items():
        code = run()
        if code != 0:
            sys.stderr.write(f"rknn-toolkit2 refuses {what} (code {code})\n")
            return 2
    rows = _arrays(folder / "rows.npz")
    answers = [
        compiler.inference(inputs=[array[row : row + 1] for array in rows], data_format="nchw")
        for row in range(len(rows[0]))
    ]
    np.savez(folder / "outputs.npz", *(np.concatenate(column) for column in zip(*answers, strict=True)))
    compiler.release()
    return 0


def _dataset(folder: Path) -> Path:
    """Calibration rows as the library wants them: a line of files for each."""
    arrays = _arrays(folder / "calibration.npz")
    lines = []
    for row in range(len(arrays[0])):
        names = [f"row-{row}-{i}.npy" for i in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            np.save(folder / name, array[row : row + 1])
        lines.append(" ".join(names))
    path = folder / "dataset.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def _arrays(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return [archive[name] for name in archive.files]


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2]))
