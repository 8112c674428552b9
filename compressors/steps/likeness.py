"""Whether an exported float file answers as its network does, on rows of the user's own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressors.errors import ConversionError, ModelRunError
from compressors.measuring.scoring import answering

if TYPE_CHECKING:
    from compressors.data.evaluation_rows import Split
    from compressors.step import Model

ROWS = 8
RELATIVE = 1e-3  # of the largest output: kernels sum in another order, a wrong conversion is off by far more


def require_like_network(model: Model, split: Split) -> float:
    """Run both on the first rows of a split.

    Returns:
        The largest difference, as a share of the largest output.

    Raises:
        ConversionError: the file does not run here, or answers something else.
    """
    rows = {name: array[:ROWS] for name, array in split.inputs.items()}
    expected = model.network.run(rows)
    try:
        with answering(model) as answer:
            found = answer(rows)
    except ModelRunError as exc:
        raise ConversionError(
            f"{exc}; the exporter wrote it of a network that it can't express: use another format"
        ) from exc
    worst = 0.0
    for name, values in expected.items():
        difference = np.abs(found[name].astype(np.float64) - values.astype(np.float64)).max()
        share = float(difference / max(float(np.abs(values).max()), 1e-6))
        if not share <= RELATIVE:
            raise ConversionError(
                f"the {model.form} file that the exporter wrote gives another {name} than the network: it is off by "
                f"{share:.2g} of the largest output"
            )
        worst = max(worst, share)
    return worst
