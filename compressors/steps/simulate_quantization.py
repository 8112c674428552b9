"""Quantization of any bit width, simulated: the network stays float and answers as an integer one of that width would.

It shows what a width would cost before a device for it exists. Weights really are rounded, so that codebooks and
compression on the wire gain from it; the device computes in float as before.
Source: Jacob et al. 2018, arXiv:1712.05877: `x_q = round(x / s)`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compressors.errors import NoEffectError
from compressors.measuring.fidelity import snr_db
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.simulation import Grid, Scheme, ranges_of, simulated, simulated_snr_db
from compressors.simulation.simulate import channel_axis
from compressors.step import Form, Outcome, Parameters, Step

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from compressors.step import Context, Model

Bits = Annotated[int, Field(ge=2, le=16)]


class SimulateQuantizationParameters(Parameters):
    """Widths in bits; None leaves that side float.

    `per_channel`: a scale for each output channel of a weight, else one for the tensor. `symmetric_weights`,
    `symmetric_activations`: zero is in the middle of the grid.
    """

    weight_bits: Bits | None = 8
    activation_bits: Bits | None = None
    per_channel: bool = True
    symmetric_weights: bool = True
    symmetric_activations: bool = False

    def scheme(self) -> Scheme:
        """What is rounded."""
        return Scheme(
            Grid(self.weight_bits, self.symmetric_weights) if self.weight_bits else None,
            Grid(self.activation_bits, self.symmetric_activations) if self.activation_bits else None,
            self.per_channel,
        )


def simulate(model: Model, context: Context, parameters: SimulateQuantizationParameters) -> Outcome:
    """Fold batch-norms and round; see `Step`.

    Raises:
        NoEffectError: nothing was rounded, or a weight has more values than its width allows.
    """
    module = fold_batch_norms(graph_of(model.network.module))
    folded = replace(model.network, module=module)
    scheme = parameters.scheme()
    ranges = ranges_of(folded, context.calibration) if scheme.activations is not None else {}
    rounding = simulated(module, scheme, ranges)
    layers = {} if scheme.weights is None else _seen(module, rounding, scheme, scheme.weights)
    if not layers and not ranges:
        raise NoEffectError("nothing was rounded: give weight_bits or activation_bits to a network that has weights")
    network = replace(model.network, module=rounding, parameters=sum(one.numel() for one in rounding.parameters()))
    cost_db = simulated_snr_db(model.network, context, scheme)
    summary = f"{len(layers)} weights and {len(ranges)} activations are rounded: output SNR {cost_db:.2f} dB"
    return Outcome(replace(model, network=network), summary, layers)


def _seen(before: fx.GraphModule, after: fx.GraphModule, scheme: Scheme, grid: Grid) -> dict[str, str]:
    """What was done to each weight, as it is found in the rounded network."""
    found = {}
    for name, layer in weighted_layers(after):
        values = _most_values(layer, per_channel=scheme.per_channel)
        if values > grid.highest - grid.lowest + 1:
            raise NoEffectError(f"the weights of {name} have {values} values where {grid.bits} bits have fewer")
        noise_db = snr_db(weight_of(before.get_submodule(name)).numpy(), weight_of(layer).numpy())
        found[name] = f"{values} values at most{' in a channel' if scheme.per_channel else ''}, SNR {noise_db:.1f} dB"
    return found


def _most_values(layer: nn.Module, *, per_channel: bool) -> int:
    weight: torch.Tensor = weight_of(layer)
    if not per_channel:
        return len(weight.unique())
    return max(len(channel.unique()) for channel in weight.movedim(channel_axis(layer), 0))


STEP = Step(
    "simulate-quantization",
    SimulateQuantizationParameters,
    simulate,
    takes=Form.NETWORK,
    gives=Form.NETWORK,
)
