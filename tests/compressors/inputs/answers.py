"""Whether a network answers as the torch network did that all the files were made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.inputs.program import FloatModel


def check_answers(network: FloatModel, foreign: Path, rows: str, output: str) -> None:
    with np.load(foreign / rows) as arrays:
        scores = network.run({"picture": arrays["picture"]})[output]
    np.testing.assert_allclose(scores.astype(np.float64), np.load(foreign / "scores.npy"), atol=1e-4)
