"""What the adapters of ONNX Runtime and ExecuTorch promise beyond what the runner's tests show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.errors import ModelInvokeError, ModelLoadError
from edge_agent.protocol.profile import DELEGATES_OF, Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.edge_agent.conftest import Workshop

OTHERS = [RuntimeName.ONNX, RuntimeName.EXECUTORCH]


@pytest.fixture(params=OTHERS)
def runtime(request: pytest.FixtureRequest) -> RuntimeName:
    name: RuntimeName = request.param
    return name


def test_load_float_file_gives_the_network_s_numbers(
    workshop: Workshop, float_file_for: Callable[[RuntimeName], Path], runtime: RuntimeName
) -> None:
    model = open_runtime(runtime).load(float_file_for(runtime), threads=1, delegate=DELEGATES_OF[runtime][0])
    rows = workshop.network.samples(1)
    rows.flags.writeable = False  # as a request's bytes are
    (scores,) = model.invoke([rows])
    np.testing.assert_allclose(scores, workshop.network.expected(rows), atol=1e-5)
    (tensor,) = model.inputs
    assert (tensor.datatype, tensor.shape, tensor.scale) == (Datatype.FP32, (1, 8), None)


def test_invoke_twice_leaves_the_first_answer_alone(
    workshop: Workshop, float_file_for: Callable[[RuntimeName], Path], runtime: RuntimeName
) -> None:
    model = open_runtime(runtime).load(float_file_for(runtime), threads=1, delegate=DELEGATES_OF[runtime][0])
    (first,) = model.invoke([workshop.network.samples(1)])
    kept = first.copy()
    model.invoke([workshop.network.samples(1, seed=8)])
    np.testing.assert_array_equal(first, kept)


def test_invoke_with_a_wrong_shape_is_an_invoke_error(
    float_file_for: Callable[[RuntimeName], Path], runtime: RuntimeName
) -> None:
    model = open_runtime(runtime).load(float_file_for(runtime), threads=1, delegate=DELEGATES_OF[runtime][0])
    with pytest.raises(ModelInvokeError):
        model.invoke([np.zeros((1, 9), dtype=np.float32)])


@pytest.mark.parametrize(
    ("runtime", "delegate"),
    [(RuntimeName.ONNX, Delegate.XNNPACK), (RuntimeName.EXECUTORCH, Delegate.NONE)],
    indirect=["runtime"],
)
def test_load_with_a_delegate_that_is_not_there_says_which_to_use(
    float_file_for: Callable[[RuntimeName], Path], runtime: RuntimeName, delegate: Delegate
) -> None:
    with pytest.raises(ModelLoadError, match=f"use {DELEGATES_OF[runtime][0]}"):
        open_runtime(runtime).load(float_file_for(runtime), threads=1, delegate=delegate)


def test_load_onnx_file_with_a_free_batch_is_refused(workshop: Workshop) -> None:
    with pytest.raises(ModelLoadError, match="export a fixed batch"):
        open_runtime(RuntimeName.ONNX).load(workshop.onnx_file(batch="n"), threads=1, delegate=Delegate.NONE)
