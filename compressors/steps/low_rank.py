"""Low-rank factors: a layer becomes two or three thin ones in a row.

Linear layers, 1x1 convolutions and embeddings are cut by a truncated SVD, other convolutions by Tucker-2 (a 1x1
convolution to fewer channels, a small core, a 1x1 convolution back). What is kept is the energy of the layer's outputs
on the calibration rows, or that of its weights.
Source: Denton et al. 2014, arXiv:1404.0736; Kim et al. 2016, arXiv:1511.06530 (Tucker-2); Wang et al. 2024,
arXiv:2403.07378 (weighed by the inputs).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from compressors.errors import NoEffectError
from compressors.network.factors import factors_of
from compressors.network.layers import check_skip, graph_of, replace_layer, weighted_layers
from compressors.network.macs import layer_macs
from compressors.network.moments import input_moments
from compressors.rehydrate import clone
from compressors.step import Form, Outcome, Parameters, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compressors.network.factors import Factors
    from compressors.step import Context, Model

SEARCH_ROUNDS = 30  # bisections of the energy: far below one rank


class LowRankParameters(Parameters):
    """How far to cut.

    `energy`: the share of each layer's energy to keep. `macs`: instead, the share of the network's multiplications to
    come down to; the energy that gets there is searched. `multiple`: ranks are rounded up to it, because odd widths are
    slow. `skip`: layers that stay as they are.
    """

    energy: Annotated[float, Field(gt=0, lt=1)] = 0.98
    macs: Annotated[float | None, Field(gt=0, lt=1)] = None
    aim: Literal["outputs", "weights"] = "outputs"
    multiple: Annotated[int, Field(ge=1, le=64)] = 8
    skip: tuple[str, ...] = ()


Ranks = dict[str, tuple[int, ...]]


def factorize(model: Model, context: Context, parameters: LowRankParameters) -> Outcome:
    """Cut the layers where that makes them cheaper; see `Step`.

    Raises:
        NoEffectError: no layer becomes cheaper.
        RecipeError: `skip` names a layer that does not exist.
    """
    check_skip(model.network.module, parameters.skip)
    module = clone(graph_of(model.network.module))
    moments = input_moments(model.network, context.calibration) if parameters.aim == "outputs" else {}
    macs = layer_macs(model.network)
    factors = {
        name: found
        for name, layer in weighted_layers(module)
        if name not in parameters.skip and (found := factors_of(layer, moments.get(name))) is not None
    }
    ranks = _chosen(factors, macs, parameters)
    if not ranks:
        raise NoEffectError(
            "no layer becomes cheaper as low-rank factors at this energy: keep less of it, or leave the step out"
        )
    layers = {}
    for name, own in ranks.items():
        one = factors[name]
        replace_layer(module, name, one.chain(own))
        layers[name] = (
            f"{' x '.join(map(str, one.shape))} at rank {' and '.join(map(str, own))}: "
            f"{one.kept(own):.2%} of its energy, {one.share(own):.0%} of its weights"
        )
    left = sum(weight.numel() for weight in module.parameters())
    network = replace(model.network, module=module, parameters=left)
    summary = (
        f"{len(ranks)} of {len(factors)} layers are factors: {model.network.parameters} -> {left} parameters, "
        f"{_share(factors, macs, ranks):.0%} of the multiplications"
    )
    return Outcome(replace(model, network=network), summary, layers)


def _chosen(factors: Mapping[str, Factors], macs: Mapping[str, int], parameters: LowRankParameters) -> Ranks:
    if parameters.macs is None:
        return _ranks(factors, parameters.energy, parameters.multiple)
    least = _share(factors, macs, _ranks(factors, 0.0, parameters.multiple))
    if least > parameters.macs:
        raise NoEffectError(
            f"low-rank factors bring this network down to {least:.0%} of its multiplications at most, and "
            f"{parameters.macs:.0%} are asked for: ask for more, or prune it as well"
        )
    low, high = 0.0, 1.0
    for _ in range(SEARCH_ROUNDS):
        middle = (low + high) / 2
        fits = _share(factors, macs, _ranks(factors, middle, parameters.multiple)) <= parameters.macs
        low, high = (middle, high) if fits else (low, middle)
    return _ranks(factors, low, parameters.multiple)


def _ranks(factors: Mapping[str, Factors], energy: float, multiple: int) -> Ranks:
    """The ranks of the layers that become cheaper at this energy."""
    found = {name: one.ranks(energy, multiple) for name, one in factors.items()}
    return {name: ranks for name, ranks in found.items() if factors[name].share(ranks) < 1}


def _share(factors: Mapping[str, Factors], macs: Mapping[str, int], ranks: Ranks) -> float:
    """What is left of the network's multiplications; without any, of its weights."""
    cost = macs or {name: one.weights for name, one in factors.items()}
    total = sum(cost.values())
    saved = sum(cost.get(name, 0) * (1 - factors[name].share(own)) for name, own in ranks.items())
    return 1 - saved / total


STEP = Step("low-rank", LowRankParameters, factorize, takes=Form.NETWORK, gives=Form.NETWORK)
