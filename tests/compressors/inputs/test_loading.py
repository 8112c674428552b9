"""What the results of a job depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from compressors.contract import Inputs, Task
from compressors.inputs import loading
from compressors.inputs.recognition import Format

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("kind", "library", "keys"),
    [
        (Format.KERAS, "keras", 2),
        (Format.HDF5, "keras", 2),
        (Format.SAVED_MODEL, "tensorflow", 2),
        (Format.ONNX, "keras", 1),
        (Format.TORCH_EXPORT, "keras", 1),
        (Format.LITERT, "tensorflow", 1),
    ],
)
def test_key_of_a_model_changes_with_the_library_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Format, library: str, keys: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    monkeypatch.setattr(loading, "format_of", lambda _path: kind)
    monkeypatch.setattr(loading, "packages_distributions", lambda: {library: [f"{library}-cpu"]})
    inputs = Inputs(model="net", version="1", model_path=path, data_path=path, task=Task.REGRESSION, metric="r2")
    found = set()
    for release in ("1.0", "1.1"):
        monkeypatch.setattr(loading, "version", {f"{library}-cpu": release}.__getitem__)
        found.add(loading.sha256_of(inputs))
    assert len(found) == keys
