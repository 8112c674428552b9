"""The content of an upload decides what it is, whatever it is called."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from compressors.errors import ArchiveError
from compressors.inputs.recognition import Format, format_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shapes.onnx", Format.ONNX),
        ("shapes.keras", Format.KERAS),
        ("shapes.h5", Format.HDF5),
        ("shapes.tflite", Format.LITERT),
        ("shapes.zip", Format.SAVED_MODEL),
        ("shapes.tar.gz", Format.SAVED_MODEL),
    ],
)
def test_format_is_known_by_content_under_any_name(foreign: Path, tmp_path: Path, name: str, expected: Format) -> None:
    assert format_of(shutil.copyfile(foreign / name, tmp_path / "model")) is expected


def test_export_of_torch_is_known(uploads: Path) -> None:
    assert format_of(uploads / "shapes.pt2") is Format.TORCH_EXPORT


def test_plain_tar_is_known(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.add(tmp_path / "saved_model.pb", "saved/saved_model.pb")
    assert format_of(tmp_path / "m.tar") is Format.SAVED_MODEL


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickle_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(pickle.dumps({"weights": [1.0]}, protocol))
    with pytest.raises(ArchiveError, match="is a pickle"):
        format_of(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"just text", b"\x08", b"\x08\xff", b"GGUF" + bytes(600), b"%PDF"])
def test_anything_else_is_refused_with_what_is_accepted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"in no format that is known here: push a torch\.export archive"):
        format_of(path)


def test_truncated_zip_is_refused(foreign: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    content = (foreign / "shapes.keras").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArchiveError, match="truncated or damaged"):
        format_of(path)


def test_zip_of_photos_goes_to_the_gate_of_torch(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos", "w") as archive:
        archive.writestr("holiday/1.jpg", b"x")
    assert format_of(tmp_path / "photos") is Format.TORCH_EXPORT


@pytest.mark.parametrize(
    "module", ["recognition", "protobuf", "onnx.gate", "saved_model.gate", "saved_model.unpacking"]
)
def test_gate_loads_no_library_of_its_format(module: str) -> None:
    heavy = "{'torch', 'keras', 'tensorflow', 'onnx', 'numpy', 'h5py'}"
    code = f"import sys, compressors.inputs.{module}; print(sorted({heavy} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
