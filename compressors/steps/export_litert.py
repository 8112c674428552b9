"""Export the float network as a LiteRT file, with a batch of one: the runner feeds larger batches sample by sample."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressors.files.litert import read_facts
from compressors.quiet import quiet
from compressors.step import Form, ModelFile, Outcome, Parameters, Step
from compressors.steps.unconvertible import unconvertible

if TYPE_CHECKING:
    from compressors.step import Context, Model


class ExportLitertParameters(Parameters):
    """None so far."""


def export_litert(model: Model, _context: Context, _parameters: ExportLitertParameters) -> Outcome:
    """Convert through litert-torch; see `Step`.

    Raises:
        ConversionError: an operator has no counterpart; the sentence names it.
    """
    import litert_torch  # noqa: PLC0415  brings jax: seconds

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.tflite"
        try:
            litert_torch.convert(model.network.module, model.network.examples()).export(str(path))
        except Exception as exc:  # the converter raises whatever its lowering happens to hit
            raise unconvertible(exc, "LiteRT", model.network.module) from exc
        file = path.read_bytes()
    facts = read_facts(file)
    exported = replace(model, file=ModelFile(Form.LITERT, file))
    return Outcome(exported, f"{facts.operators} operators, {facts.macs} MACs", facts.layers)


STEP = Step("export-litert", ExportLitertParameters, export_litert, takes=Form.NETWORK, gives=Form.LITERT)
