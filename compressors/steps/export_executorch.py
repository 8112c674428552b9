"""Export the network as an ExecuTorch program lowered to XNNPACK, in float or quantized to 8 bits on the way.

ExecuTorch quantizes the graph before it is lowered (PT2E), so both are one step. Static quantization has one scale per
output channel; activations are calibrated with the true minimum and maximum of all calibration samples, where the
library's default takes a histogram apart. Inputs and outputs stay float32.
Source: Jacob et al. 2018, arXiv:1712.05877; docs.pytorch.org/executorch (XNNPACK backend, quantization).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from compressors.calibration import shift
from compressors.calibration.feature_scales import is_unevenly_scaled
from compressors.calibration.rows import calibrating
from compressors.errors import CompressorError, NoEffectError
from compressors.extras import extra
from compressors.files.executorch import read_delegated, read_facts
from compressors.quiet import quiet
from compressors.step import Form, ModelFile, Outcome, Parameters, Step
from compressors.steps.likeness import require_like_network
from compressors.steps.unconvertible import unconvertible

if TYPE_CHECKING:
    from compressors.data.evaluation_rows import Split
    from compressors.files.facts import FileFacts
    from compressors.step import Context, Model

_SCALING = {"sub", "add", "mul", "div", "clamp", "relu", "reshape", "view"}
_CLAMPS = ("aten.hardtanh", "aten.clamp.")
NAMED_LEFT = 4  # operators in the summary


class ExportExecutorchParameters(Parameters):
    """`quantize`: `none` keeps float32, `static-int8` makes weights and activations int8."""

    quantize: Literal["none", "static-int8"] = "none"


def export_executorch(model: Model, context: Context, parameters: ExportExecutorchParameters) -> Outcome:
    """Export, quantize where it is asked for, lower, and check; see `Step`.

    Raises:
        ConversionError: an operator has no counterpart (the sentence names it), or the float file answers otherwise.
        NoEffectError: nothing was quantized.
        DataError: int8 is asked for, and there are no calibration rows.
        ExtraMissingError: the extra `executorch` is not installed.
    """
    with extra("executorch"), quiet():
        import executorch.exir  # noqa: F401, PLC0415  seconds, and an extra of its own
        import torchao.quantization.pt2e  # noqa: F401, PLC0415
    with quiet():
        try:
            exported = torch.export.export(model.network.module.eval(), model.network.examples(), strict=False)
            if parameters.quantize == "static-int8":
                exported = torch.export.export(
                    _quantized(exported.module(), context.calibration), model.network.examples(), strict=False
                )
            content = _lowered(exported)
        except CompressorError:
            raise
        except Exception as exc:  # exporters raise whatever their passes happen to hit
            raise unconvertible(exc, "ExecuTorch", model.network.module) from exc
    outcome_model = replace(model, file=ModelFile(Form.EXECUTORCH, content))
    facts = read_facts(content)
    warning = None
    if parameters.quantize == "none":
        said = f"{require_like_network(outcome_model, context.calibration):.1e} off the network"
    else:
        warning = shift.input_warning(context.calibration, context.selection)
        said = "; ".join(filter(None, (_effect(facts), warning)))
    delegated = read_delegated(content)
    left = f", {len(delegated.left)} operators stay outside of it ({_few(delegated.left)})" if delegated.left else ""
    summary = f"{facts.operators} operators, {facts.macs} MACs, {delegated.partitions} XNNPACK parts{left}; {said}"
    return Outcome(outcome_model, summary, facts.layers, warning=warning or "")


def _quantized(module: torch.fx.GraphModule, split: Split) -> torch.nn.Module:
    """The graph with quantize and dequantize around what XNNPACK computes in integers."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as library  # noqa: PLC0415
    from torchao.quantization.pt2e import MinMaxObserver  # noqa: PLC0415
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # noqa: PLC0415

    rows = calibrating(split)
    config = library.get_symmetric_quantization_config(is_per_channel=True)
    activations = replace(
        config.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=torch.finfo(torch.float32).eps)
    )
    quantizer = library.XNNPACKQuantizer().set_global(
        replace(config, input_activation=activations, output_activation=activations)
    )
    if any(map(is_unevenly_scaled, split.inputs.values())):
        kept = _scaling_nodes(module.graph)
        quantizer.set_filter_function(lambda node: node not in kept)
    prepared = prepare_pt2e(module, quantizer)
    with torch.no_grad():
        for row in rows:
            prepared(*(torch.from_numpy(array[row : row + 1]) for array in split.inputs.values()))
    _clip_ranges(prepared)
    converted: torch.nn.Module = convert_pt2e(prepared)
    return converted


def _clip_ranges(prepared: torch.fx.GraphModule) -> None:
    """What a ReLU6 (or another clamp) cuts off needs no integers: the range before it is the one behind it.

    The library fuses ReLU alone, and would spend most of the 8 bits of a convolution on values that are cut off.
    """
    for node in prepared.graph.nodes:
        if node.op != "call_function" or not str(node.target).startswith(_CLAMPS):
            continue
        source, *bounds = node.args
        numbers = [bound for bound in bounds if isinstance(bound, (int, float))]
        if source.op != "call_module" or len(source.users) > 1 or len(numbers) != 2:  # noqa: PLR2004  low and high
            continue
        observer: Any = prepared.get_submodule(source.target)
        observer.min_val.clamp_(*numbers)
        observer.max_val.clamp_(*numbers)


def _scaling_nodes(graph: torch.fx.Graph) -> set[torch.fx.Node]:
    """The nodes that work on the inputs and constants alone, element by element, up to the first other one."""
    scaled = {node for node in graph.nodes if node.op == "placeholder"}
    constants = {node for node in graph.nodes if node.op == "get_attr"}
    found: set[torch.fx.Node] = set()
    for node in graph.nodes:
        used = set(node.all_input_nodes)
        kind = str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")
        if node.op == "call_function" and kind in _SCALING and used & scaled and used <= scaled | constants:
            scaled.add(node)
            found.add(node)
    return found


def _lowered(exported: Any) -> bytes:  # noqa: ANN401  torch carries no types
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # noqa: PLC0415
    from executorch.exir import to_edge_transform_and_lower  # noqa: PLC0415

    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    return bytes(program.to_executorch().buffer)


def _effect(facts: FileFacts) -> str:
    if facts.integer_layers == 0:
        raise NoEffectError("no operator of this network was quantized: it has no layer that the quantizer supports")
    return f"{facts.integer_layers} of {len(facts.layers)} weighted operators hold int8 weights"


def _few(names: tuple[str, ...]) -> str:
    distinct = sorted(set(names))
    return ", ".join(distinct[:NAMED_LEFT]) + (", ..." if len(distinct) > NAMED_LEFT else "")


STEP = Step(
    "export-executorch", ExportExecutorchParameters, export_executorch, takes=Form.NETWORK, gives=Form.EXECUTORCH
)
