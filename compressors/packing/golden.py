"""Golden samples: real inputs with the outputs that this very variant must give again on the device.

The tolerance covers what honest implementations differ by: twice the largest difference seen between the delegates of
this runtime that ran the same file here, one step of a quantized output, and 1e-4 of the largest output, or one step of
8 bits over its range where the file computes with integers inside. A wrong file, a wrong conversion or a broken kernel
is off by far more.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.protocol.manifest import Golden

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split
    from compressors.measuring.measure import Measurement
    from edge_agent.protocol.signature import ModelSignature

MAX_SAMPLES = 4
MAX_RAW_BYTES = 1 << 20
RELATIVE_SLACK = 1e-4
INTEGER_SLACK = 2 / 255  # an integer that is rounded the other way moves an output of [-1, 1] so far


def sample_count(signature: ModelSignature, split: Split) -> int:
    """How many samples fit in about 1 MiB: at least one, at most four."""
    bytes_each = sum(spec.sample_elements * spec.datatype.size_bytes for spec in signature.inputs)
    return max(1, min(MAX_SAMPLES, MAX_RAW_BYTES // max(1, bytes_each), split.rows))


def golden_file(
    signature: ModelSignature,
    split: Split,
    chosen: Measurement,
    all_of_file: Sequence[Measurement],
    *,
    samples: int,
    quantized: bool,
) -> tuple[bytes, Golden]:
    """The `.npz` of the golden samples (`in_0.. out_0..`) and their tolerance; `quantized`: the file's inside is."""
    expected = chosen.golden_outputs or {}
    arrays = {f"in_{i}": split.inputs[spec.name][:samples] for i, spec in enumerate(signature.inputs)}
    arrays |= {f"out_{i}": expected[spec.name][:samples] for i, spec in enumerate(signature.outputs)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    slack = INTEGER_SLACK if quantized else RELATIVE_SLACK
    return buffer.getvalue(), Golden(samples=samples, atol=_tolerance(expected, chosen, all_of_file, slack))


def _tolerance(
    expected: dict[str, NDArray[np.generic]], chosen: Measurement, all_of_file: Sequence[Measurement], slack: float
) -> float:
    largest = max(float(np.abs(array.astype(np.float64)).max()) for array in expected.values())
    spread = 0.0
    for other in all_of_file:
        if other.target.runtime is not chosen.target.runtime:
            continue  # another runtime may be wrong altogether: dynamic int8 is, on tflite-runtime 2.14
        for name, array in (other.golden_outputs or {}).items():
            difference = np.abs(array.astype(np.float64) - expected[name].astype(np.float64))
            spread = max(spread, float(difference.max()))
    bindings = chosen.result.outputs if chosen.result is not None else ()
    step = max((binding.scale or 0.0 for binding in bindings), default=0.0)
    return max(2.0 * spread, step, slack * largest, 1e-6)
