"""Layers without weights: activations, pools and dropout as modules, which can be replaced, hooked and set to train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from compressors.rehydrate.weighted import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.rehydrate.call import Call

    Arguments = dict[str, Any]

RELU6 = (0.0, 6.0)


def _hardtanh(given: Arguments) -> nn.Module:
    bounds = (given["min_val"], given["max_val"])
    return nn.ReLU6() if bounds == RELU6 else nn.Hardtanh(*bounds)


def _softmax(given: Arguments) -> nn.Module | None:
    changes_type = given.get("dtype") is not None or given.get("half_to_float", False)
    return None if changes_type else nn.Softmax(dim=given["dim"])


def _log_softmax(given: Arguments) -> nn.Module | None:
    changes_type = given.get("dtype") is not None or given.get("half_to_float", False)
    return None if changes_type else nn.LogSoftmax(dim=given["dim"])


def _average_pool(kind: type[nn.Module]) -> Callable[[Arguments], nn.Module]:
    def build(given: Arguments) -> nn.Module:
        options = {"divisor_override": given["divisor_override"]} if "divisor_override" in given else {}
        return kind(
            given["kernel_size"],
            given["stride"] or None,
            given["padding"],
            ceil_mode=given["ceil_mode"],
            count_include_pad=given["count_include_pad"],
            **options,
        )

    return build


def _max_pool(kind: type[nn.Module]) -> Callable[[Arguments], nn.Module]:
    return lambda given: kind(
        given["kernel_size"], given["stride"] or None, given["padding"], given["dilation"], ceil_mode=given["ceil_mode"]
    )


PLAIN: dict[str, Callable[[Arguments], nn.Module | None]] = {
    "relu": lambda _: nn.ReLU(),
    "relu6": lambda _: nn.ReLU6(),
    "hardtanh": _hardtanh,
    "hardswish": lambda _: nn.Hardswish(),
    "hardsigmoid": lambda _: nn.Hardsigmoid(),
    "leaky_relu": lambda given: nn.LeakyReLU(given["negative_slope"]),
    "silu": lambda _: nn.SiLU(),
    "mish": lambda _: nn.Mish(),
    "gelu": lambda given: nn.GELU(approximate=given["approximate"]),
    "sigmoid": lambda _: nn.Sigmoid(),
    "tanh": lambda _: nn.Tanh(),
    "softmax": _softmax,
    "_softmax": _softmax,
    "log_softmax": _log_softmax,
    "_log_softmax": _log_softmax,
    "avg_pool1d": _average_pool(nn.AvgPool1d),
    "avg_pool2d": _average_pool(nn.AvgPool2d),
    "avg_pool3d": _average_pool(nn.AvgPool3d),
    "max_pool1d": _max_pool(nn.MaxPool1d),
    "max_pool2d": _max_pool(nn.MaxPool2d),
    "max_pool3d": _max_pool(nn.MaxPool3d),
    "max_pool2d_with_indices": _max_pool(nn.MaxPool2d),
    "adaptive_avg_pool1d": lambda given: nn.AdaptiveAvgPool1d(given["output_size"][0]),
    "adaptive_avg_pool2d": lambda given: nn.AdaptiveAvgPool2d(given["output_size"]),
    "_adaptive_avg_pool2d": lambda given: nn.AdaptiveAvgPool2d(given["output_size"]),
    "adaptive_avg_pool3d": lambda given: nn.AdaptiveAvgPool3d(given["output_size"]),
    "dropout": lambda given: nn.Dropout(given["p"]),
    "feature_dropout": lambda given: nn.Dropout2d(given["p"]),
    "alpha_dropout": lambda given: nn.AlphaDropout(given["p"]),
}


def plain_layer(call: Call) -> Layer | None:
    """The layer that a call is; None where it is none of these."""
    build, applied = PLAIN.get(call.operator), call.input("input") or call.input("self")
    if build is None or applied is None or call.node.all_input_nodes != [applied]:  # a parameter that is computed
        return None
    module = build(call.arguments)
    if module is None:
        return None
    return Layer(module, applied, first_of_tuple=call.operator == "max_pool2d_with_indices")
