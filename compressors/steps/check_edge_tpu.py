"""Refuse a LiteRT file that the Edge TPU could not run altogether; the file itself stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.errors import ConversionError
from compressors.files.litert import read_facts
from compressors.npu.edge_tpu import violations
from compressors.step import Form, Outcome, Parameters, Step, content_of

if TYPE_CHECKING:
    from compressors.step import Context, Model

NAMED = 8  # violations in the sentence


class CheckEdgeTpuParameters(Parameters):
    """None so far."""


def check_edge_tpu(model: Model, _context: Context, _parameters: CheckEdgeTpuParameters) -> Outcome:
    """Apply the rule of `npu.edge_tpu`; see `Step`.

    Raises:
        ConversionError: the file does not conform; one sentence for each operator.
    """
    content = content_of(model)
    found = violations(content)
    if found:
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise ConversionError(f"this file does not conform to the Edge TPU: {'; '.join(found[:NAMED])}{more}")
    facts = read_facts(content)
    return Outcome(model, f"all {facts.operators} operators conform to the Edge TPU", {})


STEP = Step("check-edge-tpu", CheckEdgeTpuParameters, check_edge_tpu, takes=Form.LITERT, gives=Form.LITERT)
