"""Compile a fully integer LiteRT file for an Arm Ethos-U processor; what it can't run stays on the CPU, and is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compressors.errors import NoEffectError
from compressors.npu.vela import Accelerator, Compiled, Placed, compile_file
from compressors.step import Form, ModelFile, Outcome, Parameters, Step, content_of

if TYPE_CHECKING:
    from compressors.step import Context, Model

NAMED_FALLEN = 4  # operators in the summary


class CompileEthosUParameters(Parameters):
    """`accelerator`: the configuration of the processor, as a profile's `npu.configuration` names it."""

    accelerator: Accelerator


def compile_ethos_u(model: Model, _context: Context, parameters: CompileEthosUParameters) -> Outcome:
    """Compile through Vela; see `Step`.

    Raises:
        NoEffectError: no operator of the file can run on the processor.
        ConversionError: Vela refuses the file.
        ExtraMissingError: the extra `ethos-u` is not installed.
    """
    compiled = compile_file(content_of(model), parameters.accelerator)
    if len(compiled.fallen_back) == len(compiled.operators):
        raise NoEffectError(
            f"no operator of this file can run on {parameters.accelerator}: make it fully integer first (static-int8)"
        )
    return Outcome(
        replace(model, file=ModelFile(Form.ETHOS_U, compiled.content)),
        _summary(compiled, parameters.accelerator),
        _layers(compiled),
        figures={
            "operators_on_npu": len(compiled.operators) - len(compiled.fallen_back),
            "operators_off_npu": len(compiled.fallen_back),
            "npu_cycles": compiled.cycles,
            "npu_ms": compiled.inference_ms,
            "sram_bytes": compiled.sram_bytes,
            "dram_bytes": compiled.dram_bytes,
        },
    )


def _summary(compiled: Compiled, accelerator: str) -> str:
    fallen = compiled.fallen_back
    named = ", ".join(sorted({one.kind for one in fallen})[:NAMED_FALLEN])
    return (
        f"{len(compiled.operators) - len(fallen)} of {len(compiled.operators)} operators run on {accelerator}"
        + (f", {len(fallen)} stay on the CPU ({named})" if fallen else "")
        + f"; estimated: {compiled.cycles} cycles, {compiled.inference_ms:.3g} ms, "
        f"{compiled.sram_bytes} bytes of SRAM, {compiled.dram_bytes} bytes of DRAM"
    )


def _layers(compiled: Compiled) -> dict[str, str]:
    """Where each operator runs; one layer may be several of them."""
    layers: dict[str, str] = {}
    for one in compiled.operators:
        layers[one.name] = "; ".join(filter(None, (layers.get(one.name), _where(one))))
    return layers


def _where(one: Placed) -> str:
    return f"{one.kind} on the NPU, {one.cycles} cycles" if one.on_npu else f"{one.kind} on the CPU"


STEP = Step("compile-ethos-u", CompileEthosUParameters, compile_ethos_u, takes=Form.LITERT, gives=Form.ETHOS_U)
