"""What a repair gives: the repaired network where the simulation says that it is better, else the network as it was.

Repairs are no compression: one that finds nothing to do, or makes matters worse, is left out and says so, so that one
recipe serves every network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compressors.simulation import Grid, Scheme, answers_on_selection, simulated_snr_db
from compressors.step import Outcome, Parameters

if TYPE_CHECKING:
    from torch import fx

    from compressors.step import Context, Model

LEFT_OUT = "left out: "  # how the summary of a step begins that gave the network back as it was


class RepairParameters(Parameters):
    """What the network will be quantized to: the simulation that a repair is judged by."""

    weight_bits: Annotated[int, Field(ge=2, le=16)] = 8
    activation_bits: Annotated[int, Field(ge=2, le=16)] = 8
    per_channel: bool = True

    def scheme(self) -> Scheme:
        """What is simulated."""
        return Scheme(
            Grid(self.weight_bits, symmetric=True), Grid(self.activation_bits, symmetric=False), self.per_channel
        )


def left_out(model: Model, why: str) -> Outcome:
    """The network as it was."""
    return Outcome(model, f"{LEFT_OUT}{why}", {})


def kept_if_better(
    model: Model, context: Context, repaired: fx.GraphModule, scheme: Scheme, layers: dict[str, str]
) -> Outcome:
    """The better of two networks, by the simulated output SNR on selection rows."""
    network = replace(model.network, module=repaired, parameters=sum(one.numel() for one in repaired.parameters()))
    expected = answers_on_selection(context.teacher or model.network, context)
    before, after = (simulated_snr_db(one, context, scheme, expected=expected) for one in (model.network, network))
    if after <= before:
        return left_out(model, f"simulated output SNR {before:.2f} dB without it, {after:.2f} dB with it")
    return Outcome(
        replace(model, network=network),
        f"{len(layers)} layers changed: simulated output SNR {before:.2f} -> {after:.2f} dB on selection rows",
        layers,
    )
