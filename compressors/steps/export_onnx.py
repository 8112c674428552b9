"""Export the float network as an ONNX file, with a batch of one: the runner feeds larger batches sample by sample."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from compressors.extras import extra
from compressors.files.onnx import read_facts
from compressors.quiet import quiet
from compressors.step import Form, ModelFile, Outcome, Parameters, Step
from compressors.steps.likeness import require_like_network
from compressors.steps.unconvertible import unconvertible

if TYPE_CHECKING:
    from compressors.step import Context, Model


class ExportOnnxParameters(Parameters):
    """`opset`: the version of ONNX's operators. 18 is what the exporter writes; later ones are converted from it."""

    opset: Annotated[int, Field(ge=18, le=21)] = 18


def export_onnx(model: Model, context: Context, parameters: ExportOnnxParameters) -> Outcome:
    """Convert through torch's exporter, all weights inside of the file, and compare; see `Step`.

    Raises:
        ConversionError: an operator has no counterpart (the sentence names it), or the file answers otherwise.
        ExtraMissingError: the extra `onnx` is not installed.
    """
    with extra("onnx"):
        import onnxruntime  # noqa: F401, PLC0415  it must run what is written
        import onnxscript  # noqa: F401, PLC0415  what torch's exporter needs
    signature = model.network.signature
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                model.network.module,
                model.network.examples(),
                path,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                opset_version=parameters.opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as exc:  # the exporter raises whatever its passes happen to hit
            raise unconvertible(exc, "ONNX", model.network.module) from exc
        content = path.read_bytes()
    exported = replace(model, file=ModelFile(Form.ONNX, content))
    difference = require_like_network(exported, context.calibration)
    facts = read_facts(content)
    summary = (
        f"opset {parameters.opset}, {facts.operators} operators, {facts.macs} MACs, {difference:.1e} off the network"
    )
    return Outcome(exported, summary, facts.layers)


STEP = Step("export-onnx", ExportOnnxParameters, export_onnx, takes=Form.NETWORK, gives=Form.ONNX)
