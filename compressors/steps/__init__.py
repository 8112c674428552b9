"""One algorithm per file, one shape for all: a step takes a model and its context, gives a model and a record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.steps import (
    check_edge_tpu,
    cluster,
    compile_ethos_u,
    export_executorch,
    export_litert,
    export_onnx,
    fine_tune,
    low_rank,
    quantize_litert,
    quantize_onnx,
    share_embeddings,
    student,
)

if TYPE_CHECKING:
    from compressors.steps.base import AnyStep

ALL: tuple[AnyStep, ...] = (
    cluster.STEP,
    low_rank.STEP,
    share_embeddings.STEP,
    student.STEP,
    fine_tune.STEP,
    export_litert.STEP,
    quantize_litert.DYNAMIC,
    quantize_litert.STATIC,
    export_onnx.STEP,
    quantize_onnx.DYNAMIC,
    quantize_onnx.STATIC,
    export_executorch.STEP,
    compile_ethos_u.STEP,
    check_edge_tpu.STEP,
)
STEPS: dict[str, AnyStep] = {step.name: step for step in ALL}
