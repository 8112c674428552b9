"""SavedModels: what passes the gate, what it says of the others, and the file that TensorFlow makes of them."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from compressors.errors import ArchiveError, ConversionError
from compressors.inputs.saved_model.gate import check_graph
from compressors.inputs.saved_model.network import load
from compressors.inputs.saved_model.unpacking import MAX_ENTRIES, unpack
from tests.compressors.inputs.answers import check_answers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="the extra `tensorflow` is not installed")
PB = b"\x08\x01"


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def refusal(path: Path, tmp_path: Path) -> str:
    """The sentence about an archive; nothing of it may lie outside of the folder."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError) as refused:
        unpack(path, tmp_path / "inner" / "model")
    outside = {one for one in tmp_path.rglob("*") if tmp_path / "inner" not in one.parents} - {tmp_path / "inner"}
    assert outside == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


@needs_tensorflow
@pytest.mark.parametrize("name", ["shapes.zip", "shapes.tar.gz"])
def test_model_becomes_a_file_that_answers_as_the_source_did(foreign: Path, name: str) -> None:
    network = load(foreign / name)
    check_answers(network, foreign, "keras-shapes.npz", "output_0")
    assert network.litert_file is not None


@pytest.mark.parametrize(("name", "operator"), [("reader", "ReadFile"), ("caller", "EagerPyFunc")])
def test_model_that_does_more_than_compute_is_refused_by_operator(foreign: Path, name: str, operator: str) -> None:
    with pytest.raises(ConversionError, match=f"uses {operator} .* not on the list of operators that only compute"):
        load(foreign / f"{name}.zip")


@pytest.fixture
def graph(foreign: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """The `saved_model.pb` with one thing changed."""
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415  the extra may be missing

    def write(change: Callable[[Any], None]) -> Path:
        model = saved_model_pb2.SavedModel.FromString((foreign / "saved" / "saved_model.pb").read_bytes())
        change(model.meta_graphs[0])
        path = tmp_path / "saved_model.pb"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def _function(meta: Any, part: str) -> Any:  # noqa: ANN401
    return next(one for one in meta.graph_def.library.function if part in one.signature.name)


def _node(function: Any, kind: str) -> Any:  # noqa: ANN401
    return next(one for one in function.node_def if one.op == kind)


def _write_in_the_graph(meta: Any) -> None:  # noqa: ANN401
    node = meta.graph_def.node.add()
    node.name, node.op = "w", "WriteFile"


def _print_while_saving(meta: Any) -> None:  # noqa: ANN401
    node = _function(meta, "traced_save").node_def.add()
    node.name, node.op = "p", "PrintV2"


def _restore_from_elsewhere(meta: Any) -> None:  # noqa: ANN401
    function = _function(meta, "traced_restore")
    constant = function.node_def.add()
    constant.name, constant.op = "elsewhere", "Const"
    constant.attr["value"].tensor.string_val.append(b"/etc/secret")
    _node(function, "RestoreV2").input[0] = "elsewhere:output:0"


def _save_outside(meta: Any) -> None:  # noqa: ANN401
    _node(_function(meta, "traced_save"), "Const").attr["value"].tensor.string_val.append(b"/../../../etc/cron.d/x")


def _call_the_saver_from_a_layer(meta: Any) -> None:  # noqa: ANN401
    function = _function(meta, "signature_wrapper")
    _node(function, "StatefulPartitionedCall").attr["f"].func.name = _function(meta, "traced_save").signature.name


def _call_the_saver_with_a_path(meta: Any) -> None:  # noqa: ANN401
    saver = _function(meta, "traced_restore").signature.name
    call = next(one for one in meta.graph_def.node if one.attr["f"].func.name == saver)
    constant = meta.graph_def.node.add()
    constant.name, constant.op = "elsewhere", "Const"
    call.input[0] = "elsewhere"


@needs_tensorflow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_write_in_the_graph, "uses WriteFile ('w' in the graph)"),
        (_print_while_saving, "uses PrintV2 in __inference__traced_save"),
        (_restore_from_elsewhere, "works with a file of its own choice"),
        (_save_outside, "holds a path that leads out"),
        (_call_the_saver_from_a_layer, "which works with files, from __inference_signature_wrapper"),
        (_call_the_saver_with_a_path, "which works with files, from the graph"),
    ],
)
def test_graph_that_works_with_files_of_its_own_is_refused(
    graph: Callable[..., Path], change: Callable[[Any], None], says: str
) -> None:
    with pytest.raises(ConversionError) as refused:
        check_graph(graph(change))
    assert says in str(refused.value)


@needs_tensorflow
def test_graph_as_tensorflow_writes_it_passes(graph: Callable[..., Path]) -> None:
    check_graph(graph(lambda _meta: None))


@needs_tensorflow
def test_asset_files_are_refused(graph: Callable[..., Path]) -> None:
    with pytest.raises(ConversionError, match="reads asset files"):
        check_graph(graph(lambda meta: meta.asset_file_def.add()))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_graph_is_refused(foreign: Path, tmp_path: Path, share: float) -> None:
    content = (foreign / "saved" / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArchiveError):
        check_graph(tmp_path / "saved_model.pb")


@pytest.mark.parametrize(
    "name", ["../saved_model.pb", "/saved/saved_model.pb", "saved/../../x", "saved\\..\\x", "saved//saved_model.pb"]
)
def test_path_that_leads_elsewhere_is_refused_by_name(tmp_path: Path, name: str) -> None:
    source = write_tar(tmp_path / "m", {"saved/saved_model.pb": PB, name: b"x"})
    assert f"the path {name!r}, which leads elsewhere" in refusal(source, tmp_path)


def test_path_that_leads_elsewhere_in_a_zip_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m", {"../evil/saved_model.pb": PB})
    assert "which leads elsewhere" in refusal(source, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_link_or_device_in_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    link = tarfile.TarInfo("saved/variables/variables.index")
    link.type, link.linkname = kind, "/etc/passwd"
    source = write_tar(tmp_path / "m", {"saved/saved_model.pb": PB, "link": link})
    assert "is damaged" in (said := refusal(source, tmp_path)) or "which is no ordinary file" in said


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m", "w") as archive:
        info = zipfile.ZipInfo("saved/variables/variables.index")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert "holds the link" in refusal(tmp_path / "m", tmp_path)


@pytest.mark.parametrize("name", ["saved/assets/words.txt", "saved/run.py", "saved/variables/x.so"])
def test_file_that_is_no_part_of_the_model_is_refused_by_name(tmp_path: Path, name: str) -> None:
    source = write_zip(tmp_path / "m", {"saved/saved_model.pb": PB, name: b"x"})
    assert repr(name) in refusal(source, tmp_path)


def test_second_model_in_the_archive_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m", {"a/saved_model.pb": PB, "b/saved_model.pb": PB})
    assert "a second model" in refusal(source, tmp_path)


def test_zip_bomb_is_stopped_while_it_unpacks(tmp_path: Path) -> None:
    bomb = {"saved/saved_model.pb": PB, "saved/variables/variables.data-00000-of-00001": bytes(64 << 20)}
    source = write_zip(tmp_path / "m", bomb)
    assert source.stat().st_size < 1 << 20
    assert "unpacks to far more than was sent" in refusal(source, tmp_path)
    assert sum(one.stat().st_size for one in (tmp_path / "inner").rglob("*") if one.is_file()) < 32 << 20


def test_gzip_bomb_that_says_it_is_small_is_stopped(tmp_path: Path) -> None:
    bomb = {"saved/variables/variables.data-00000-of-00001": bytes(64 << 20)}
    assert "unpacks to far more than was sent" in refusal(write_tar(tmp_path / "m", {**bomb}), tmp_path)


def test_archive_of_too_many_files_is_refused(tmp_path: Path) -> None:
    many = {f"saved/._{number}": b"" for number in range(MAX_ENTRIES + 1)}
    assert f"more than {MAX_ENTRIES} files" in refusal(write_zip(tmp_path / "m", many), tmp_path)


@pytest.mark.parametrize(
    "content", [gzip.compress(b"no tar at all"), b"\x1f\x8b\x08damaged", b""], ids=["no-tar", "damaged", "empty"]
)
def test_archive_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    assert "is damaged" in refusal(tmp_path / "m", tmp_path)


def test_archive_without_a_model_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "m", {"saved/fingerprint.pb": b"x"})
    assert "holds no saved_model.pb" in refusal(source, tmp_path)


def test_leavings_of_a_mac_are_left_out(foreign: Path, tmp_path: Path) -> None:
    shutil.copyfile(foreign / "shapes.zip", tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "m", "a") as archive:
        archive.writestr("saved/.DS_Store", b"x")
    unpack(tmp_path / "m", tmp_path / "model")
    assert sorted(one.name for one in (tmp_path / "model").rglob("*") if one.is_file()) == [
        "saved_model.pb",
        "variables.data-00000-of-00001",
        "variables.index",
    ]


@needs_tensorflow
def test_operator_that_litert_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    import tensorflow as tf  # noqa: PLC0415  the extra may be missing

    def serve(x: Any) -> Any:  # noqa: ANN401
        with tf.name_scope("head"):
            return tf.matmul(x, tf.ones((4, 1), tf.float16))

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 4], tf.float16)])
    tf.saved_model.save(module, str(tmp_path / "half"), signatures=module.serve)
    shutil.make_archive(str(tmp_path / "half"), "zip", tmp_path, "half")
    with pytest.raises(ConversionError, match=r"\('tf\.MatMul' op .*, first in the layer 'head/MatMul'\): export"):
        load(tmp_path / "half.zip")
