"""Keras models: what passes the gates, what they say of the others, and the network that a model becomes."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from compressors.errors import ArchiveError, ConversionError, SignatureError, WeightError
from compressors.inputs.keras import hdf5, network
from compressors.inputs.keras.archive import checked_copy
from compressors.inputs.keras.configuration import check_configuration
from compressors.inputs.keras.network import load
from tests.compressors.inputs.answers import check_answers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

h5py = pytest.importorskip("h5py", reason="the extra `keras` is not installed")

CONFIGURATION, WEIGHTS = "config.json", "model.weights.h5"
Document = dict[str, Any]


@pytest.fixture
def entries(foreign: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(foreign / "shapes.keras") as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write(path: Path, entries: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def with_layer(entries: dict[str, bytes], **layer: object) -> bytes:
    """The configuration with its second layer replaced."""
    document: Document = json.loads(entries[CONFIGURATION])
    changed = {**document["config"]["layers"][2], "registered_name": None, **layer}
    document["config"]["layers"][2] = changed
    return json.dumps(document).encode()


@pytest.mark.parametrize("name", ["shapes.keras", "shapes.h5"])
def test_model_becomes_a_network_that_answers_as_the_source_did(foreign: Path, name: str) -> None:
    loaded = load(foreign / name)
    check_answers(loaded, foreign, "keras-shapes.npz", "output_0")
    assert [(one.name, one.shape) for one in loaded.signature.inputs] == [("picture", (-1, 12, 12, 1))]
    assert loaded.parameters == 739
    assert loaded.litert_file is None


def test_layers_have_the_weights_under_the_names_of_keras(foreign: Path) -> None:
    modules = dict(load(foreign / "shapes.keras").module.named_modules())
    weighted = {name: module for name, module in modules.items() if hasattr(module, "weight")}
    assert {name: type(module).__name__ for name, module in weighted.items()} == {
        "conv2d": "Conv2d",
        "depthwise_conv2d": "Conv2d",
        "conv2d_1": "Conv2d",
        "dense": "Linear",
    }
    assert all(isinstance(module.bias, torch.nn.Parameter) for module in weighted.values())


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ({"class_name": "Lambda", "config": {"name": "trick"}}, "'trick' is a Lambda, which holds Python code"),
        ({"config": {"name": "a", "activation": {"class_name": "__lambda__", "config": {}}}}, "is a Lambda"),
        ({"class_name": "MyLayer", "module": "mine", "config": {"name": "own"}}, "'own' is a MyLayer of mine, a class"),
        ({"class_name": "Dense", "registered_name": "pkg>Dense", "config": {"name": "own"}}, "is a pkg>Dense"),
        ({"class_name": "os.system", "module": "builtins", "config": "x"}, "of builtins, a class of its own"),
        (
            {"config": {"activation": {"class_name": "function", "module": "builtins", "config": "mine"}}},
            "calls the function 'mine', which is not of Keras",
        ),
        (
            {"class_name": "StringLookup", "config": {"name": "words", "vocabulary": "/etc/passwd"}},
            "the layer 'words' is a StringLookup, which is not supported",
        ),
        ({"class_name": "TorchModuleWrapper", "config": {"name": "wrapped"}}, "'wrapped' is a TorchModuleWrapper"),
        ({"class_name": "TFSMLayer", "config": {"filepath": "/x", "name": "sm"}}, "'sm' is a TFSMLayer"),
        ({"class_name": ["Dense"], "config": {}}, "is a ['Dense'], which is not supported"),
        ({"registered_name": ["Dense"]}, "a class of its own"),
    ],
)
def test_layer_that_is_code_or_reads_files_is_refused_by_name(
    entries: dict[str, bytes], tmp_path: Path, layer: Document, says: str
) -> None:
    path = write(tmp_path / "model", {**entries, CONFIGURATION: with_layer(entries, **layer)})
    with pytest.raises(ConversionError) as refused:
        load(path)
    assert says in str(refused.value)


def test_lambda_in_an_hdf5_file_is_refused_by_name(foreign: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes((foreign / "shapes.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        document = json.loads(file.attrs["model_config"])
        document["config"]["layers"].append({"class_name": "Lambda", "config": {"name": "trick", "function": "gA=="}})
        file.attrs["model_config"] = json.dumps(document)
    with pytest.raises(ConversionError, match="'trick' is a Lambda"):
        load(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "the model is a no object"),
        (b'{"class_name": "MyModel", "config": {}}', "the model is a MyModel: only Sequential and functional"),
    ],
)
def test_configuration_that_is_none_is_refused(content: bytes, says: str) -> None:
    with pytest.raises((ArchiveError, ConversionError)) as refused:
        check_configuration(content)
    assert says in str(refused.value)


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "assets/words.txt", "code.py", "model.pkl"])
def test_entry_that_is_no_part_of_a_model_is_refused_by_name(
    entries: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    with pytest.raises(ArchiveError) as refused:
        load(write(tmp_path / "model", {**entries, name: b"x"}))
    assert repr(name) in str(refused.value)


def test_compressed_entries_are_refused_unread(entries: dict[str, bytes], tmp_path: Path) -> None:
    bomb = {**entries, WEIGHTS: bytes(50 << 20)}
    path = write(tmp_path / "model", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ArchiveError, match="is compressed"):
        load(path)


def test_archive_without_weights_is_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    del entries[WEIGHTS]
    with pytest.raises(ArchiveError, match=r"has no model\.weights\.h5"):
        load(write(tmp_path / "model", entries))


def test_weights_alone_are_refused(foreign: Path) -> None:
    with pytest.raises(ArchiveError, match="holds weights, but no model"):
        load(foreign / "only.weights.h5")


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_truncated_hdf5_is_refused(foreign: Path, tmp_path: Path, share: float) -> None:
    content = (foreign / "shapes.h5").read_bytes()
    path = tmp_path / "model"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ArchiveError, match="is damaged"):
        load(path)


def _link_outside(file: Any) -> None:  # noqa: ANN401
    file["stolen"] = h5py.ExternalLink("/etc/secret.h5", "/x")


def _link_inside(file: Any) -> None:  # noqa: ANN401
    file["again"] = h5py.SoftLink("/kernel")


def _values_elsewhere(file: Any) -> None:  # noqa: ANN401
    file.create_dataset("outer", (10,), "f4", external=[("/etc/passwd", 0, 40)])


def _view(file: Any) -> None:  # noqa: ANN401
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/secret.h5", "x", (4,))
    file.create_virtual_dataset("view", layout)


def _filter(file: Any) -> None:  # noqa: ANN401
    file.create_dataset("packed", (100,), "f4", compression="lzf")


def _bomb(file: Any) -> None:  # noqa: ANN401
    file.create_dataset("zeros", (2 << 30,), "f4", chunks=(1 << 20,), compression="gzip")


def _text(file: Any) -> None:  # noqa: ANN401
    file.create_dataset("words", data=["a", "b"])


def _deep(file: Any) -> None:  # noqa: ANN401
    file.create_group("/".join("d" * 40))


@pytest.mark.parametrize(
    ("add", "says"),
    [
        (_link_outside, "'/stolen' of the HDF5 file is a link elsewhere (ExternalLink)"),
        (_link_inside, "'/again' of the HDF5 file is a link elsewhere (SoftLink)"),
        (_values_elsewhere, "'/outer' of the HDF5 file keeps its values in other files"),
        (_view, "'/view' of the HDF5 file keeps its values in other files"),
        (_filter, "'/packed' of the HDF5 file is packed with the filter 32000"),
        (_bomb, "the weights unpack to more than"),
        (_text, "'/words' of the HDF5 file holds object values"),
        (_deep, "groups more than 32 deep"),
    ],
)
def test_hdf5_that_reaches_out_is_refused_by_name(tmp_path: Path, add: Callable[[Any], None], says: str) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["kernel"] = np.zeros(4, np.float32)
        add(file)
    with pytest.raises(ArchiveError) as refused:
        hdf5.check_file(path)
    assert says in str(refused.value)


def test_hdf5_whose_groups_form_a_circle_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        inner = file.create_group("inner")
        inner["outer"] = file["/"]
        inner["kernel"] = np.zeros(4, np.float32)
    hdf5.check_file(path)


def test_only_checked_copies_are_handed_on(foreign: Path, tmp_path: Path) -> None:
    assert checked_copy(foreign / "shapes.h5", tmp_path).read_bytes() == (foreign / "shapes.h5").read_bytes()


def test_nan_weight_is_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    weights = tmp_path / WEIGHTS
    weights.write_bytes(entries[WEIGHTS])
    with h5py.File(weights, "r+") as file:
        found: list[Any] = []
        file.visititems(lambda _name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        largest = max(found, key=lambda item: item.size)
        largest[0] = np.nan
    with pytest.raises(WeightError, match="NaN or infinite"):
        load(write(tmp_path / "model", {**entries, WEIGHTS: weights.read_bytes()}))


def test_free_length_besides_the_batch_is_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    document: Document = json.loads(entries[CONFIGURATION])
    document["config"]["layers"] = document["config"]["layers"][:3]
    document["config"]["layers"][0]["config"]["batch_shape"] = [None, None, 12, 1]
    document["config"].pop("build_input_shape", None)
    document.pop("build_config", None)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(entries[WEIGHTS])
    path = write(tmp_path / "model", {**entries, CONFIGURATION: json.dumps(document).encode()})
    with pytest.raises(SignatureError, match="free dimension besides the batch"):
        load(path)


def test_weights_of_another_network_are_refused(entries: dict[str, bytes], tmp_path: Path) -> None:
    weights = tmp_path / WEIGHTS
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((2, 2), np.float32)
    path = write(tmp_path / "model", {**entries, WEIGHTS: weights.read_bytes()})
    with pytest.raises(ConversionError, match=r"Keras .* can't load this model"):
        load(path)


def test_weights_that_no_memory_holds_are_no_fault_of_the_file(entries: dict[str, bytes], tmp_path: Path) -> None:
    huge = with_layer(entries, class_name="Dense", module="keras.layers", config={"name": "huge", "units": 10**14})
    with pytest.raises(MemoryError, match="can't allocate memory"):
        load(write(tmp_path / "model", {**entries, CONFIGURATION: huge}))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, while it saves
def test_network_of_double_precision_answers_as_the_source_did(tmp_path: Path) -> None:
    keras = network._keras()  # it must run on torch in this process
    source = keras.Sequential([keras.Input((8,), name="x", dtype="float64"), keras.layers.Dense(1, dtype="float64")])
    source.save(tmp_path / "double.keras")
    rows = np.random.default_rng(0).normal(size=(5, 8))
    with torch.no_grad():
        expected = source(torch.from_numpy(rows)).numpy()
    found = load(tmp_path / "double.keras").run({"x": rows})["output_0"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.astype(np.float64), expected, atol=1e-6)
