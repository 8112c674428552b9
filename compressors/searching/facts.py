"""What a model, its data and its profile allow a search to try: plain facts, found once, before the first recipe.

What is probed here is never suggested where it could not work, so that no trial is spent on learning it again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import nn

from compressors.contract import Part, Task
from compressors.errors import CompressorError, SearchError
from compressors.files.formats import Form
from compressors.network.layers import weight_of, weighted_layers
from compressors.network.macs import layer_macs
from compressors.repairs.batch_norm import norms_of
from compressors.sensitivity.quantizing import sensitivity
from compressors.sensitivity.sharpness import affordable_curvature, sharpness
from compressors.step import Model
from compressors.steps import low_rank, narrowing
from compressors.students import Architecture, build

if TYPE_CHECKING:
    from collections.abc import Iterable

    from compressors.inputs.program import FloatModel
    from compressors.sensitivity.quantizing import LayerSensitivity
    from compressors.step import Context

TABLE_ENTRIES = 256  # from which on an embedding is worth sharing
SHARES = (25, 35, 50, 65, 80)  # per cent of the multiplications that pruning may be asked to leave
ENERGIES = (98, 95, 90, 85)  # per cent of a layer's energy that low-rank factors may be asked to keep
WIDTHS = (100, 75, 50, 25)  # per cent of the channels of a student
CLUSTERED_WEIGHTS = 2048  # of a layer, from which on shared values pay, even where pruning takes most of them first
WORTHWHILE = 0.8  # of the model's multiplications: a larger student gains nothing
MOST_SPARED = 2  # layers that pruning may be told to leave alone
MOST_FLOAT = 6  # layers that may stay in float
STANDS_OUT = 4.0  # times the median layer's noise
TRAINING_S = 60.0  # that one training step may take, roughly: ten minutes are for more than two of them
MACS_PER_S = 3e10  # of training on two cores, forward and backward together: 8 M MACs, 60,000 rows, about 50 s
BATCHES_PER_S = 500.0  # of a network so small that only its calls cost
MOST_EPOCHS = 20
STUDENT_EPOCHS = 10  # fewer teach a network nothing that begins at nothing
BACKWARD = 3  # times the multiplications of a forward pass


class Facts(Part):
    """What a space is made of; equal facts make equal spaces."""

    forms: tuple[Form, ...] = (Form.LITERT,)  # of files that the profile runs and this host can measure, best first
    has_layers: bool  # a model that was pushed as a file has none, and its numbers alone can be changed
    has_norms: bool = False
    has_wide_layers: bool = False  # with weights enough for a codebook
    has_tables: bool = False  # embeddings that are worth sharing
    sensitive: tuple[str, ...] = ()  # the layers that quantization costs most, the worst first
    outstanding: int = 0  # of them that cost far more than the median layer
    curved: tuple[str, ...] = ()  # the layers whose rounded weights cost the loss most by its curvature, where known
    spared: int = 0  # of them that pruning may leave alone
    narrowest_percent: int | None = None  # of the multiplications that pruning of channels can come down to
    energy_percent: int | None = None  # the most of a layer's energy at which low-rank factors make one cheaper
    student_percent: dict[Architecture, int] = Field(
        default_factory=dict
    )  # the widest student of each kind that is worthwhile
    epochs: int = 0  # that a training step may have; 0: it can't train

    def curvature_differs(self, count: int) -> bool:
        """Whether the curvature names other layers to be left in float than the noise does, if so many are left."""
        return bool(self.curved) and set(self.curved[:count]) != set(self.sensitive[:count])

    @property
    def mends(self) -> bool:
        """Whether what a step damages can be trained on; else it must be gentle."""
        return self.epochs > 0

    @property
    def sha256(self) -> str:
        """The same for the same space."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def facts_of(network: FloatModel, context: Context, forms: tuple[Form, ...]) -> Facts:
    """Look at a model; see `Facts`.

    Raises:
        SearchError: it was pushed as a file of a format that is not among `forms`.
    """
    if network.litert_file is not None:
        if Form.LITERT not in forms:
            raise SearchError(
                "the model was pushed as a .tflite file, and no runtime that loads one is in the profile and here: "
                "push it as a torch.export archive, .onnx or .keras"
            )
        return Facts(forms=(Form.LITERT,), has_layers=False)
    model, macs = Model(network), sum(layer_macs(network).values())
    found = sensitivity(network, context)
    sensitive = tuple(one.layer for one in found)
    epochs = affordable_epochs(context, macs)
    spared, narrowest = _narrowest(model, context, sensitive)
    return Facts(
        forms=forms,
        has_layers=True,
        has_norms=bool(norms_of(network.module)),
        has_wide_layers=any(
            weight_of(layer).numel() >= CLUSTERED_WEIGHTS for _, layer in weighted_layers(network.module)
        ),
        has_tables=any(
            isinstance(layer, nn.Embedding) and layer.num_embeddings >= TABLE_ENTRIES
            for _, layer in weighted_layers(network.module)
        ),
        sensitive=sensitive,
        outstanding=_outstanding(found),
        curved=_curved(network, context),
        spared=spared,
        narrowest_percent=narrowest,
        energy_percent=_energy(model, context),
        student_percent=_students(network, context, macs),
        epochs=epochs,
    )


def affordable_epochs(context: Context, macs: int) -> int:
    """How long a network of so many multiply-accumulates may be trained; by arithmetic, so that every run agrees."""
    if context.train is None:
        return 0
    rows = context.train.rows
    epoch_s = rows * macs * BACKWARD / MACS_PER_S + rows / 128 / BATCHES_PER_S
    return min(MOST_EPOCHS, int(TRAINING_S / epoch_s))


def _outstanding(found: Iterable[LayerSensitivity]) -> int:
    """How many layers cost so much that they may be worth leaving in float; not all, which would be no quantization."""
    noises = sorted((one.noise for one in found), reverse=True)
    if not noises:
        return 0
    median = noises[len(noises) // 2]
    return min(MOST_FLOAT, len(noises) - 1, sum(noise > STANDS_OUT * median for noise in noises))


def _curved(network: FloatModel, context: Context) -> tuple[str, ...]:
    """As many layers as may stay in float, the most costly first."""
    if not affordable_curvature(network, context):
        return ()
    return tuple(sharpness(network, context))[:MOST_FLOAT]


def _narrowest(model: Model, context: Context, sensitive: tuple[str, ...]) -> tuple[int, int | None]:
    """How many layers pruning may spare, and how far down it then comes at least."""
    for spared in range(min(MOST_SPARED, max(0, len(sensitive) - 1)), -1, -1):
        if (share := _narrowest_without(model, context, sensitive[:spared])) is not None:
            return spared, share
    return 0, None


def _narrowest_without(model: Model, context: Context, skip: tuple[str, ...]) -> int | None:
    try:
        prunable = narrowing.prunable_of(model, context, skip)
    except CompressorError:
        return None
    equal = {coupling: torch.zeros(coupling.units) for coupling in prunable.couplings}
    whole = sum(prunable.macs.values())
    for percent in SHARES:
        parameters = narrowing.ChannelParameters(macs=percent / 100, skip=skip)
        try:
            narrowing.chosen(prunable, equal, parameters, whole=whole, share=parameters.macs)
        except CompressorError:
            continue
        return percent
    return None


def _energy(model: Model, context: Context) -> int | None:
    for percent in ENERGIES:
        try:
            low_rank.factorize(model, context, low_rank.LowRankParameters(energy=percent / 100))
        except CompressorError:
            continue
        return percent
    return None


def _students(network: FloatModel, context: Context, macs: int) -> dict[Architecture, int]:
    """The widest student of each architecture that is worthwhile, where there is time to teach it."""
    if context.task is not Task.CLASSIFICATION or context.train is None:
        return {}
    found = {}
    for architecture in Architecture:
        for percent in WIDTHS:
            try:
                student = build(architecture, network.signature, width=percent / 100, resolution=1.0, seed=0)
            except CompressorError:
                return {}
            own = sum(layer_macs(replace(network, module=student.eval())).values())
            if own <= WORTHWHILE * macs and affordable_epochs(context, own) >= STUDENT_EPOCHS:
                found[architecture] = percent
                break
    return found
