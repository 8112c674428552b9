from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.errors import ModelLoadError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runtimes.onnx_external import OutsideDataError, check
from edge_agent.runtimes.registry import open_runtime
from tests.edge_agent.surroundings import onnx_files

if TYPE_CHECKING:
    from tests.edge_agent.conftest import Workshop


def outside(name: str = "far") -> onnx.TensorProto:
    """A tensor that says that its four numbers lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def graph_with(nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto]) -> onnx.GraphProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_graph(nodes, "g", [x], [y], stored)


def in_an_initializer() -> onnx.ModelProto:
    return helper.make_model(graph_with([helper.make_node("Add", ["x", "far"], ["y"])], [outside()]))


def in_a_constant() -> onnx.ModelProto:
    return helper.make_model(graph_with([helper.make_node("Constant", [], ["y"], value=outside())], []))


def in_a_branch() -> onnx.ModelProto:
    empty = helper.make_graph([], "else", [], [])
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=outside())], "then", [], [])
    return helper.make_model(
        graph_with([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=empty)], [])
    )


def in_a_function() -> onnx.ModelProto:
    body = [helper.make_node("Constant", [], ["c"], value=outside())]
    function = helper.make_function("own", "f", ["x"], ["c"], body, [helper.make_opsetid("", 18)])
    return helper.make_model(graph_with([helper.make_node("f", ["x"], ["y"], domain="own")], []), functions=[function])


def in_a_sparse_tensor() -> onnx.ModelProto:
    model = helper.make_model(graph_with([helper.make_node("Add", ["x", "far"], ["y"])], []))
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(outside())
    return model


HIDDEN = [in_an_initializer, in_a_constant, in_a_branch, in_a_function, in_a_sparse_tensor]


@pytest.mark.parametrize("make", HIDDEN, ids=lambda make: make.__name__)
def test_check_of_a_tensor_in_another_file_refuses_wherever_it_hides(make: object) -> None:
    assert callable(make)
    with pytest.raises(OutsideDataError, match="another file"):
        check(make().SerializeToString())


def model_whose_tensor_ends_with(written: bytes) -> bytes:
    tensor: bytes = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[4]).SerializeToString() + written
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return b"\x3a" + bytes([len(graph)]) + graph


def test_check_sees_a_data_location_that_protobuf_cuts_off_to_one() -> None:
    with pytest.raises(OutsideDataError, match="another file"):
        check(model_whose_tensor_ends_with(b"\x70\x81\x80\x80\x80\x10"))  # field 14: 1 + 2^32


def test_check_refuses_a_number_of_more_than_64_bits() -> None:
    written = b"\x70\x81\x80\x80\x80\x80\x80\x80\x80\x80\x02"  # field 14: 1 + 2^64
    with pytest.raises(OutsideDataError, match="a number that does not end"):
        check(model_whose_tensor_ends_with(written))


def test_check_refuses_a_field_number_of_more_than_29_bits() -> None:
    written = b"\xf0\x80\x80\x80\x80\x01\x01"  # field 14 + 2^32
    with pytest.raises(OutsideDataError, match="number that can't be"):
        check(model_whose_tensor_ends_with(written))


def test_check_of_a_model_that_holds_its_weights_passes(workshop: Workshop) -> None:
    check(workshop.onnx_file().read_bytes())


@pytest.mark.parametrize("cut", [1, 50, 300])
def test_check_of_a_model_that_was_cut_off_refuses(workshop: Workshop, cut: int) -> None:
    with pytest.raises(OutsideDataError):
        check(workshop.onnx_file().read_bytes()[:-cut])


def test_check_of_graphs_nested_without_end_refuses() -> None:
    content = b""
    for _ in range(200):  # a graph (6) of an attribute (5) of a node (1), again and again
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + _length(content) + content
    with pytest.raises(OutsideDataError, match="nested"):
        check(b"\x3a" + _length(content) + content)


def _length(content: bytes) -> bytes:
    length, size = len(content), []
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([*size, length])


def test_load_with_weights_in_another_file_is_refused_though_the_file_is_there(workshop: Workshop) -> None:
    weights = np.ones(4, dtype=np.float32)
    model = helper.make_model(
        graph_with([helper.make_node("Add", ["x", "far"], ["y"])], [numpy_helper.from_array(weights, "far")]),
        opset_imports=[helper.make_opsetid("", onnx_files.OPSET)],
        ir_version=10,
    )
    path = workshop.folder / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (workshop.folder / "weights.bin").exists()
    with pytest.raises(ModelLoadError, match=r"model.onnx is refused: a tensor of it lies in another file"):
        open_runtime(RuntimeName.ONNX).load(path, threads=1, delegate=Delegate.NONE)
