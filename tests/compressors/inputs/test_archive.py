from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressors.errors import ArchiveError
from compressors.inputs.archive import MAX_ENTRIES, clean_copy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Document = dict[str, Any]

MODEL = "price/models/model.json"
WEIGHTS = "price/data/weights/model_weights_config.json"


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.fixture
def entries(uploads: Path) -> dict[str, bytes]:
    """What torch.export.save wrote."""
    with zipfile.ZipFile(uploads / "price.pt2") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, entries: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def refusal(path: Path, tmp_path: Path) -> str:
    """The one sentence, and nothing is left that could be loaded."""
    clean = tmp_path / "clean.pt2"
    with pytest.raises(ArchiveError) as caught:
        clean_copy(path, clean)
    assert not clean.exists()
    return str(caught.value)


def changed(content: bytes, change: Callable[[Document], None]) -> bytes:
    document = json.loads(content)
    change(document)
    return json.dumps(document).encode()


def test_clean_copy_of_an_export_holds_its_tensors_and_no_pickle(uploads: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean.pt2"
    clean_copy(uploads / "price.pt2", clean)
    with zipfile.ZipFile(uploads / "price.pt2") as before, zipfile.ZipFile(clean) as after:
        kept = {name for name in after.namelist() if "sample_inputs" not in name}
        assert {name for name in before.namelist() if "sample_inputs" not in name} == kept
        assert all(before.read(name) == after.read(name) for name in kept if name != MODEL)
        assert after.read("price/data/sample_inputs/model.pt") == b""
        assert json.loads(after.read(MODEL))["guards_code"] == []


def test_gate_needs_only_the_standard_library() -> None:
    heavy = "{'torch', 'numpy', 'jax', 'pydantic'}"
    code = f"import sys, compressors.inputs.archive; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_archive_is_refused(uploads: Path, tmp_path: Path, share: float) -> None:
    content = (uploads / "price.pt2").read_bytes()
    short = tmp_path / "short.pt2"
    short.write_bytes(content[: int(len(content) * share)])
    assert "torch.export.save" in refusal(short, tmp_path)


def test_pickle_is_refused_by_name_and_not_opened(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    path = tmp_path / "model.pt2"
    path.write_bytes(pickle.dumps(Bomb(str(mark))))
    assert "is a pickle" in refusal(path, tmp_path)
    assert not mark.exists()


def test_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "photos.pt2", {"holiday/1.jpg": b"x"}), tmp_path)
    assert "'holiday/1.jpg', which is no part of an exported model" in said


def test_torch_save_archive_is_refused(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "m.pt2", {"m/data.pkl": b"\x80\x02.", "m/byteorder": b"little"}), tmp_path)
    assert "'m/data.pkl'" in said


@pytest.mark.parametrize(
    "name",
    [
        "../models/model.json",
        "/etc/passwd",
        "price/../../x",
        "price/extra/../x",
        "other/data/weights/weight_0",
        "price/data/weights/weight_0.pkl",
        "price/data/aotinductor/m/code.so",
        "price/data/constants/custom_obj_0",
        "price/data/constants/opaque_obj_0",
        "price/data/weights/../weights/weight_0",
        "price/models/other.json",
    ],
)
def test_entry_outside_the_allowed_ones_is_refused_by_name(
    entries: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    assert repr(name) in refusal(write(tmp_path / "model.pt2", {**entries, name: b"x"}), tmp_path)


@pytest.mark.parametrize("config", [WEIGHTS, "price/data/constants/model_constants_config.json"])
@pytest.mark.parametrize("use_pickle", [True, 1, None, "false"])
def test_pickled_payload_is_refused(entries: dict[str, bytes], tmp_path: Path, config: str, use_pickle: object) -> None:
    def pickle_one(document: Document) -> None:
        next(iter(document["config"].values()))["use_pickle"] = use_pickle

    entries[config] = changed(entries[config], pickle_one)
    assert "is pickled" in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


@pytest.mark.parametrize("path", ["../../etc/passwd", "model.pt", "custom_obj_0", None, 7])
def test_payload_that_lies_elsewhere_is_refused(entries: dict[str, bytes], tmp_path: Path, path: object) -> None:
    def move(document: Document) -> None:
        next(iter(document["config"].values()))["path_name"] = path

    entries[WEIGHTS] = changed(entries[WEIGHTS], move)
    assert "not a tensor of the archive" in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.mylib.evil.default",
        "torch.serialization.os.system",
        "os.system",
        "torch.ops.aten.add.Tensor.__globals__",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.from_file.out",
        "torch.ops.aten.save.default",
        "builtins.eval",
        "torch.ops.higher_order.cond",
        "",
        None,
    ],
)
def test_call_of_anything_but_an_operator_is_refused(entries: dict[str, bytes], tmp_path: Path, target: object) -> None:
    def call(document: Document) -> None:
        document["graph_module"]["graph"]["nodes"][0]["target"] = target

    entries[MODEL] = changed(entries[MODEL], call)
    assert f"the model calls {str(target)!r}" in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch x')",
        "Symbol('s0', positive=True, integer=True).func",
        "().__class__",
        "lambda: 0",
        "1" * 5000,
        "9**9**9",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        7,
    ],
)
def test_expression_that_is_not_arithmetic_is_refused(
    entries: dict[str, bytes], tmp_path: Path, expression: object
) -> None:
    def think(document: Document) -> None:
        document["extra"] = {"expr_str": expression}

    entries[MODEL] = changed(entries[MODEL], think)
    assert "not plain arithmetic" in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


def test_expression_made_to_take_for_ever_is_refused_at_once(entries: dict[str, bytes], tmp_path: Path) -> None:
    def think(document: Document) -> None:
        document["extra"] = {"expr_str": "1" * 900 + "-1" * 500 + "!"}

    entries[MODEL] = changed(entries[MODEL], think)
    path = write(tmp_path / "model.pt2", entries)
    began = time.monotonic()
    assert "not plain arithmetic" in refusal(path, tmp_path)
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(("key", "says"), [("as_custom_obj", "a custom object"), ("as_graph", "a graph within")])
def test_object_that_is_no_tensor_is_refused(entries: dict[str, bytes], tmp_path: Path, key: str, says: str) -> None:
    def insert(document: Document) -> None:
        document["graph_module"]["graph"]["inputs"][0] = {key: {"name": "x"}}

    entries[MODEL] = changed(entries[MODEL], insert)
    assert says in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


def test_argument_of_a_class_of_the_users_is_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    def insert(document: Document) -> None:
        spec = json.dumps([1, {"type": "evil.Thing", "context": "null", "children_spec": []}])
        document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec

    entries[MODEL] = changed(entries[MODEL], insert)
    assert "takes or gives a evil.Thing" in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


def test_guards_and_sample_inputs_of_an_attacker_are_left_out(entries: dict[str, bytes], tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    entries["price/data/sample_inputs/model.pt"] = pickle.dumps(Bomb(str(mark)))
    code = f"open({str(mark)!r}, 'w')"
    entries[MODEL] = changed(entries[MODEL], lambda document: document.update(guards_code=[code]))
    clean = tmp_path / "clean.pt2"
    clean_copy(write(tmp_path / "model.pt2", entries), clean)
    load = f"import torch; torch.export.load({str(clean)!r}).module(check_guards=False)(torch.zeros(2, 8))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", load], check=True, capture_output=True)
    assert not mark.exists()


def test_compressed_bomb_is_refused_unopened(entries: dict[str, bytes], tmp_path: Path) -> None:
    bomb = {**entries, "price/data/weights/weight_9": bytes(50 << 20)}
    path = write(tmp_path / "bomb.pt2", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "is compressed" in refusal(path, tmp_path)


def test_entries_that_overlap_are_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", {**entries, "price/data/weights/weight_8": bytes(100_000)})
    with zipfile.ZipFile(path, "a") as archive:
        original = archive.getinfo("price/data/weights/weight_8")
        for number in range(50, 60):  # directory entries that all point at the same bytes
            again = zipfile.ZipInfo(f"price/data/weights/weight_{number}")
            again.file_size = again.compress_size = original.file_size
            again.CRC, again.header_offset = original.CRC, original.header_offset
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
        archive._didModify = True  # type: ignore[attr-defined]
    assert "larger than the archive itself" in refusal(path, tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entry_that_is_there_twice_is_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", entries)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(WEIGHTS, "{}")
    assert f"{WEIGHTS!r} twice" in refusal(path, tmp_path)


def test_too_many_entries_are_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    many = {**entries, **{f"price/data/weights/weight_{n}": b"" for n in range(100, MAX_ENTRIES + 101)}}
    assert f"at most {MAX_ENTRIES}" in refusal(write(tmp_path / "model.pt2", many), tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"config": 3}'])
def test_table_of_weights_that_is_no_table_is_refused(
    entries: dict[str, bytes], tmp_path: Path, content: bytes
) -> None:
    entries[WEIGHTS] = content
    assert "model_weights_config.json" in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


def test_archive_without_a_model_is_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    del entries[MODEL]
    assert "holds no exported model" in refusal(write(tmp_path / "model.pt2", entries), tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_refused_or_copied_whole_but_never_crash(
    uploads: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray((uploads / "price.pt2").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.pt2"
    path.write_bytes(content)
    with contextlib.suppress(ArchiveError):
        clean_copy(path, tmp_path / "clean.pt2")
