"""What a quantizing step gives, once its effect is seen in the file that it produced."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compressors.errors import NoEffectError
from compressors.files.litert import read_facts
from compressors.step import Form, ModelFile, Outcome

if TYPE_CHECKING:
    from compressors.step import Model


def outcome_of(model: Model, before: bytes, after: bytes, *, weights: str, activations: str = "") -> Outcome:
    """The record of a quantization to LiteRT.

    Args:
        model: as it was.
        before: its file.
        after: the file that the quantizer gave.
        weights: the type that weights should have now, such as "int8".
        activations: the type of the activations that meet them; empty where they stay float.

    Raises:
        NoEffectError: no operator of the file is so.
    """
    facts = read_facts(after)
    wanted = f" {activations or 'float32'} x {weights}"
    changed = [name for name, kind in facts.layers.items() if wanted in kind or f" int32 x {weights}" in kind]
    if not changed:
        raise NoEffectError("no operator of this network was quantized: it has no layer that the quantizer supports")
    summary = (
        f"{len(changed)} of {len(facts.layers)} weighted operators hold {weights} weights"
        + (f" and take {activations}" if activations else "")
        + f", {len(before)} -> {len(after)} bytes"
    )
    return Outcome(replace(model, file=ModelFile(Form.LITERT, after)), summary, facts.layers)
