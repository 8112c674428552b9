"""Ask a variant what its target answers: in this process where that runtime is here, else in the Python that has it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compressors.errors import ModelRunError
from compressors.files.formats import FORMATS
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Failure, Rig
from compressors.measuring.scoring import answering
from compressors.step import Model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from compressors.files.formats import Target
    from compressors.inputs.program import FloatModel
    from compressors.measuring.scoring import Answer
    from compressors.step import ModelFile
    from edge_agent.protocol.profile import RuntimeName
    from edge_agent.protocol.signature import ModelSignature


@contextmanager
def asking(
    network: FloatModel, file: ModelFile, target: Target, pythons: Mapping[RuntimeName, Path], folder: Path
) -> Iterator[Answer]:
    """A function from inputs to what a file answers on a target, by output name.

    Args:
        network: the float model, for its signature.
        file: the variant's.
        target: that it was built for.
        pythons: the Python executable that has each runtime.
        folder: for files between processes.

    Raises:
        ModelRunError: it does not run there.
    """
    scored_on = FORMATS[file.form].scored_on
    is_here = scored_on is not None and scored_on[0] is target.runtime
    if is_here and pythons.get(target.runtime) == Path(sys.executable):
        with answering(Model(network, file), target.delegate) as answer:
            yield answer
        return
    path = folder / f"asked.{FORMATS[file.form].ending}"
    path.write_bytes(file.content)
    yield Elsewhere(path, target, network.signature, pythons, folder)


class Elsewhere:
    """A file in another Python: each question starts a process that loads it, answers, and ends."""

    def __init__(
        self,
        file: Path,
        target: Target,
        signature: ModelSignature,
        pythons: Mapping[RuntimeName, Path],
        folder: Path,
    ) -> None:
        """Nothing is run yet; see `asking`."""
        self._file, self._target, self._signature = file, target, signature
        self._pythons, self._folder = pythons, folder

    def __call__(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """The outputs for some rows.

        Raises:
            ModelRunError: it does not run there.
        """
        rig = Rig(
            inputs,
            self._signature,
            pythons=self._pythons,
            folder=self._folder,
            kept=KeptMeasurements(None),
            timed=False,
        )
        ran = rig.run(self._file, self._target)
        if isinstance(ran, Failure):
            raise ModelRunError(f"the variant does not run on {self._target.runtime}: {ran.error}")
        return ran.outputs
