"""What the script of every peer does: `-m benchmarks.peers.PEER FLOAT_FILE CALIBRATION.npz FOLDER`.

It applies each of the peer's recipes to the float file and writes FOLDER/RECIPE and FOLDER/made.json. Nothing of Shoal
is imported here: it runs in the peer's environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    Rows = dict[str, NDArray[Any]]  # by the names of the model's inputs, in their order
    Recipes = Mapping[str, Callable[[], bytes]]  # what makes the file of each


def single(rows: Rows) -> Iterator[Rows]:
    """One row after the other, each a batch of one."""
    count = len(next(iter(rows.values())))
    return ({name: array[i : i + 1] for name, array in rows.items()} for i in range(count))


def main(recipes_of: Callable[[Path, Rows], Recipes]) -> None:
    """Apply each recipe; what a peer refuses is a result too."""
    source, calibration, folder = map(Path, sys.argv[1:4])
    with np.load(calibration, allow_pickle=False) as archive:
        rows = {name: archive[name] for name in archive.files}
    made: dict[str, dict[str, float | str]] = {}
    for name, recipe in recipes_of(source, rows).items():
        began_s = time.monotonic()
        try:
            (folder / name).write_bytes(recipe())
        except Exception as exc:  # noqa: BLE001  a peer raises whatever it happens to hit
            made[name] = {"refusal": f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"}
        else:
            made[name] = {"seconds": time.monotonic() - began_s}
    (folder / "made.json").write_text(json.dumps(made))
