"""Where networks are trained: on the CPU, or on a GPU that torch can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compressors.errors import GpuMissingError

if TYPE_CHECKING:
    from compressors.contract import ComputeDevice


def device_for(asked: ComputeDevice) -> str:
    """`cpu` or `cuda`; `auto` is a GPU where torch can use one.

    Raises:
        GpuMissingError: `cuda` is asked for, and there is none here.
    """
    if asked == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if asked == "auto":
        return "cpu"
    built = "no GPU is in reach of it" if torch.version.cuda else "its torch was built for CPUs alone"
    raise GpuMissingError(
        f"cuda is asked for, and where jobs run there is none ({built}): ask for --device auto or cpu, or run a worker "
        "on a machine with a GPU and a torch for it"
    )
