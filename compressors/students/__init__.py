"""Compact architectures as students: the same signature as the model that they replace, far fewer multiplications."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from compressors.errors import RecipeError
from compressors.students import inverted_residuals, shufflenet
from compressors.students.widths import divisible

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.signature import ModelSignature

PICTURE_DIMENSIONS = 3  # of one sample
PICTURE_CHANNELS = (1, 3, 4)


class Architecture(StrEnum):
    """The families of students for pictures."""

    MOBILENET_V2 = "mobilenet-v2"
    MOBILENET_V3_SMALL = "mobilenet-v3-small"
    MOBILENET_V3_LARGE = "mobilenet-v3-large"
    SHUFFLENET_V2 = "shufflenet-v2"
    EFFICIENTNET_LITE = "efficientnet-lite"


_FEATURES: dict[Architecture, Callable[..., tuple[nn.Sequential, int]]] = {
    Architecture.MOBILENET_V2: partial(inverted_residuals.features, inverted_residuals.MOBILENET_V2),
    Architecture.MOBILENET_V3_SMALL: partial(inverted_residuals.features, inverted_residuals.MOBILENET_V3_SMALL),
    Architecture.MOBILENET_V3_LARGE: partial(inverted_residuals.features, inverted_residuals.MOBILENET_V3_LARGE),
    Architecture.SHUFFLENET_V2: shufflenet.features,
    Architecture.EFFICIENTNET_LITE: partial(inverted_residuals.features, inverted_residuals.EFFICIENTNET_LITE),
}
_HIDDEN = {
    Architecture.MOBILENET_V3_SMALL: inverted_residuals.MOBILENET_V3_SMALL.hidden,
    Architecture.MOBILENET_V3_LARGE: inverted_residuals.MOBILENET_V3_LARGE.hidden,
}


class Student(nn.Module):
    """A picture in, as the signature has it; one value for each class out."""

    def __init__(
        self,
        architecture: Architecture,
        shape: tuple[int, int, int],
        outputs: int,
        *,
        width: float,
        resolution: float,
        ending: nn.Module,
    ) -> None:
        """Untrained.

        Args:
            architecture: the family.
            shape: of one sample, channels first or last.
            outputs: values of the output.
            width: multiplies the channels of each layer.
            resolution: multiplies the sides of the picture before anything looks at it.
            ending: what makes logits what the model gave, such as a softmax.
        """
        super().__init__()
        self._channels_last = shape[0] not in PICTURE_CHANNELS
        channels, *sides = (shape[2], *shape[:2]) if self._channels_last else shape
        self._sides = [max(1, round(side * resolution)) for side in sides] if resolution != 1 else None
        self.scale = nn.BatchNorm2d(channels)  # whatever range the model's pictures have
        self.features, ended = _FEATURES[architecture](channels, min(sides), width=width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        hidden = divisible(_HIDDEN[architecture] * width) if architecture in _HIDDEN else 0
        self.classifier = (
            nn.Sequential(nn.Linear(ended, hidden), nn.Hardswish(), nn.Linear(hidden, outputs))
            if hidden
            else nn.Linear(ended, outputs)
        )
        self.ending = ending

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """(batch, *shape) to (batch, outputs)."""
        x = picture.permute(0, 3, 1, 2) if self._channels_last else picture
        if self._sides is not None:
            x = nn.functional.interpolate(x, self._sides, mode="bilinear", align_corners=False)
        x = self.pool(self.features(self.scale(x)))
        classes: torch.Tensor = self.ending(self.classifier(x.flatten(1)))
        return classes


def build(
    architecture: Architecture,
    signature: ModelSignature,
    *,
    width: float,
    resolution: float,
    seed: int,
    ending: nn.Module | None = None,
) -> fx.GraphModule:
    """An untrained student of a model, as a graph of layers.

    Args:
        architecture: the family.
        signature: of the model.
        width: see `Student`.
        resolution: see `Student`.
        seed: of its first weights.
        ending: what makes logits what the model gives; None: it gives logits.

    Raises:
        RecipeError: the model does not take one picture, or gives more than one row of values for it.
    """
    if len(signature.inputs) != 1 or len(signature.inputs[0].sample_shape) != PICTURE_DIMENSIONS:
        raise RecipeError(f"{architecture} takes one picture, and this model does not: choose another student")
    if len(signature.outputs) != 1 or len(signature.outputs[0].sample_shape) != 1:
        raise RecipeError(f"{architecture} gives one row of values for a picture, and this model gives something else")
    shape = signature.inputs[0].sample_shape
    if shape[0] not in PICTURE_CHANNELS and shape[-1] not in PICTURE_CHANNELS:
        raise RecipeError(f"{architecture} takes pictures of 1, 3 or 4 channels; this model takes {shape}")
    torch.manual_seed(seed)
    outputs = signature.outputs[0].sample_elements
    student = Student(
        architecture,
        (shape[0], shape[1], shape[2]),
        outputs,
        width=width,
        resolution=resolution,
        ending=ending or nn.Identity(),
    )
    return fx.symbolic_trace(student)
