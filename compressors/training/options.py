"""How long and how hard a network is trained: plain data with ranges."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compressors.contract import Part


class FitOptions(Part):
    """Options of `fit`; the defaults mend a network that was trained before.

    `teacher_share` and `temperature` count where there is a teacher. `time_limit_s` ends training after the epoch that
    it falls into; with it the same seed may stop elsewhere on another machine.
    """

    epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 128
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 1e-4  # of matrices and kernels, not of norms and biases
    warmup_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05  # of all steps, while the rate rises
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    patience: Annotated[int, Field(ge=1)] = 3  # epochs without a better metric on the selection split
    time_limit_s: Annotated[float, Field(gt=0.0)] | None = None
    ranking_loss: Literal["bce", "bpr"] = "bce"  # of single items, or of pairs within a query
    teacher_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5  # of the loss of a labelled row
    temperature: Annotated[float, Field(ge=1.0, le=100.0)] = 4.0
