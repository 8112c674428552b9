"""Feature hints: a student also learns what its teacher sees before it decides.

Source: Romero et al. 2015, arXiv:1412.6550 (FitNets), here for the features that go into the last layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from compressors.network.layers import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

REGRESSOR = "hint"  # the layer that is added to the student while it learns


class Hints:
    """The distance of both networks' last features; to be used as a context, which adds and removes what it needs."""

    def __init__(self, student: nn.Module, teacher: nn.Module, weight: float, examples: Sequence[torch.Tensor]) -> None:
        """Args: `weight`: of this loss beside the others; `examples`: one sample's inputs."""
        self._student, self._teacher, self._weight, self._examples = student, teacher.eval(), weight, examples
        self._seen: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        """Watch both networks, and give the student a layer from its features to the teacher's."""
        for name, network in (("student", self._student), ("teacher", self._teacher)):
            last = list(weighted_layers(network))[-1][1]
            self._handles.append(last.register_forward_pre_hook(self._watch(name)))
        with torch.no_grad():
            self._student.eval()(*self._examples)
            self._teacher(*self._examples)
        ours, theirs = (self._seen[name].flatten(1).shape[1] for name in ("student", "teacher"))
        self._student.add_module(REGRESSOR, nn.Linear(ours, theirs))
        return self

    def __exit__(self, *_: object) -> None:
        """Leave both networks as they were."""
        for handle in self._handles:
            handle.remove()
        delattr(self._student, REGRESSOR)

    def loss(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Of a batch through which the student has just gone: squared error in units of the teacher's variance."""
        ours = self._student.get_submodule(REGRESSOR)(self._seen["student"].flatten(1))
        with torch.no_grad():
            self._teacher.to(inputs[0].device)(*inputs)
        theirs = self._seen["teacher"].flatten(1)
        spread = theirs.var(dim=0).mean().clamp(min=1e-12)
        distance: torch.Tensor = self._weight * ((ours - theirs) ** 2).mean() / spread
        return distance

    def _watch(self, name: str) -> Any:  # noqa: ANN401  a hook
        def see(_layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            self._seen[name] = arguments[0]

        return see
