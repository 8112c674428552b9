"""One algorithm per file, one shape for all: a step takes a model and its context, gives a model and a record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.steps import (
    check_edge_tpu,
    cluster,
    compile_ethos_u,
    correct_biases,
    equalize_layers,
    export_executorch,
    export_litert,
    export_onnx,
    fine_tune,
    fold_batch_norm,
    low_rank,
    prune_channels,
    prune_channels_hessian,
    prune_gradually,
    prune_weights,
    prune_weights_hessian,
    quantize_dynamic,
    quantize_onnx,
    quantize_static,
    quantize_weights,
    reestimate_batch_norm,
    share_embeddings,
    simulate_quantization,
    student,
    train_quantized,
)

if TYPE_CHECKING:
    from compressors.step import AnyStep

ALL: tuple[AnyStep, ...] = (
    cluster.STEP,
    low_rank.STEP,
    prune_channels.STEP,
    prune_channels_hessian.STEP,
    prune_weights.STEP,
    prune_weights_hessian.STEP,
    prune_gradually.STEP,
    share_embeddings.STEP,
    student.STEP,
    fine_tune.STEP,
    train_quantized.STEP,
    reestimate_batch_norm.STEP,
    fold_batch_norm.STEP,
    equalize_layers.STEP,
    correct_biases.STEP,
    simulate_quantization.STEP,
    export_litert.STEP,
    quantize_dynamic.INT8,
    quantize_dynamic.INT4,
    quantize_weights.STEP,
    quantize_static.INT8,
    quantize_static.INT16,
    export_onnx.STEP,
    quantize_onnx.DYNAMIC,
    quantize_onnx.STATIC,
    export_executorch.STEP,
    compile_ethos_u.STEP,
    check_edge_tpu.STEP,
)
STEPS: dict[str, AnyStep] = {step.name: step for step in ALL}
