from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.errors import ModelInvokeError, ModelLoadError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype
from edge_agent.runtimes.interpreter import LIBRARIES, InterpretedModel
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge_agent.conftest import Workshop


@pytest.mark.parametrize(("delegate", "partitions"), [(Delegate.XNNPACK, 1), (Delegate.NONE, 0)])
def test_load_float_file_gives_the_network_s_numbers(workshop: Workshop, delegate: Delegate, partitions: int) -> None:
    model = open_runtime(RuntimeName.LITERT).load(workshop.float_file(), threads=1, delegate=delegate)
    rows = workshop.network.samples(1)
    (scores,) = model.invoke([rows])
    np.testing.assert_allclose(scores, workshop.network.expected(rows), atol=1e-5)
    assert isinstance(model, InterpretedModel)
    assert model.delegate_partitions() == partitions


def test_load_int8_file_describes_its_quantization(workshop: Workshop) -> None:
    model = open_runtime(RuntimeName.LITERT).load(workshop.int8_file(), threads=1, delegate=Delegate.XNNPACK)
    (tensor,) = model.inputs
    assert (tensor.datatype, tensor.shape) == (Datatype.INT8, (1, 8))
    assert tensor.scale == pytest.approx(2 / 255)


def test_invoke_twice_leaves_the_first_answer_alone(workshop: Workshop) -> None:
    model = open_runtime(RuntimeName.LITERT).load(workshop.float_file(), threads=1, delegate=Delegate.XNNPACK)
    (first,) = model.invoke([workshop.network.samples(1)])
    kept = first.copy()
    model.invoke([workshop.network.samples(1, seed=8)])
    np.testing.assert_array_equal(first, kept)


def test_invoke_with_a_wrong_shape_is_an_invoke_error(workshop: Workshop) -> None:
    model = open_runtime(RuntimeName.LITERT).load(workshop.float_file(), threads=1, delegate=Delegate.XNNPACK)
    with pytest.raises(ModelInvokeError):
        model.invoke([np.zeros((1, 9), dtype=np.float32)])


@pytest.mark.parametrize("content", [b"", b"not a model" * 100], ids=["empty", "garbage"])
def test_load_of_something_else_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match="can't load model"):
        open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.XNNPACK)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("library", ["libnowhere_delegate.so", "libc.so.6"], ids=["missing", "no-delegate"])
def test_load_through_a_library_that_is_no_delegate_is_one_sentence_and_leaves_nothing_to_finalize(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(LIBRARIES, Delegate.ETHOS_U, library)
    with pytest.raises(ModelLoadError, match=f"reached through {library}, which does not load here"):
        open_runtime(RuntimeName.LITERT).load(workshop.float_file(), threads=1, delegate=Delegate.ETHOS_U)
    gc.collect()  # where a finalizer raises, pytest turns it into a failure
