"""The gate for SavedModels: every operator of every function is read and named before TensorFlow sees the file.

A SavedModel is a program: it may read and write files, call Python by a number, and run anything that is registered.
So only operators that compute pass. Each SavedModel has two functions that save and restore its variables, and these
must work with files. They pass as TensorFlow writes them: the path is an argument, nothing in them leads out of
a folder, and nobody calls them but the saver, with the path that the loader gives.
Source: saved_model.proto, graph.proto, function.proto and node_def.proto of TensorFlow 2.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.errors import ArchiveError, ConversionError
from compressors.inputs.protobuf import Field, Kind, Message, Table, read
from compressors.inputs.saved_model.operators import COMPUTING, FILES, KEEPING
from edge_agent.runtimes.protobuf import ProtobufError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_GRAPH_BYTES = 512 << 20
HOW_TO_EXPORT = "make it with model.export(FOLDER) or tf.saved_model.save"
_NAME_CHARS = 120
_SAVER_PATH = "saver_filename"  # the placeholder by which the loader tells the path of the variables

_FUNCTION: Table = {1: Field("name", Kind.TEXT), 2: Field("attr", Kind.IGNORED)}
_LIST: Table = {
    **{number: Field(f"values_{number}", Kind.IGNORED) for number in (2, 3, 4, 5, 6, 7, 8)},
    9: Field("func", _FUNCTION, repeated=True),
}
_ATTRIBUTE: Table = {
    **{number: Field(f"value_{number}", Kind.IGNORED) for number in (3, 4, 5, 6, 7, 9)},
    1: Field("list", _LIST),
    2: Field("s", Kind.BYTES),
    8: Field("tensor", Kind.BYTES),
    10: Field("func", _FUNCTION),
}
_NODE: Table = {
    1: Field("name", Kind.TEXT),
    2: Field("op", Kind.TEXT),
    3: Field("input", Kind.TEXT, repeated=True),
    4: Field("device", Kind.IGNORED),
    5: Field("attr", {1: Field("key", Kind.TEXT), 2: Field("value", _ATTRIBUTE)}, repeated=True),
    6: Field("experimental_debug_info", Kind.IGNORED),
    7: Field("experimental_type", Kind.IGNORED),
}
_FUNCTION_DEF: Table = {
    1: Field("signature", Kind.BYTES),
    3: Field("node_def", _NODE, repeated=True),
    **{number: Field(f"field_{number}", Kind.IGNORED) for number in (4, 5, 6, 7, 8)},
}
_GRAPH: Table = {
    1: Field("node", _NODE, repeated=True),
    2: Field(
        "library",
        {
            1: Field("function", _FUNCTION_DEF, repeated=True),
            2: Field("gradient", Kind.IGNORED),
            3: Field("registered_gradients", Kind.IGNORED),
        },
    ),
    3: Field("version", Kind.IGNORED),
    4: Field("versions", Kind.IGNORED),
    5: Field("debug_info", Kind.IGNORED),
}
_META_GRAPH: Table = {
    1: Field("meta_info_def", Kind.IGNORED),
    2: Field("graph_def", _GRAPH),
    **{number: Field(f"field_{number}", Kind.IGNORED) for number in (3, 4, 5, 7)},
    6: Field("asset_file_def", Kind.BYTES, repeated=True),
}
_MODEL: Table = {1: Field("schema_version", Kind.INTEGER), 2: Field("meta_graphs", _META_GRAPH, repeated=True)}


def check_graph(path: Path) -> None:
    """Read a `saved_model.pb` whole.

    Raises:
        ArchiveError: it is no SavedModel, or damaged.
        ConversionError: it does more than compute; the sentence names the operator and where it stands.
    """
    if path.stat().st_size > MAX_GRAPH_BYTES:
        raise ArchiveError(f"saved_model.pb has more than {MAX_GRAPH_BYTES} bytes: {HOW_TO_EXPORT}")
    try:
        model = read(path.read_bytes(), _MODEL, "the SavedModel")
    except ProtobufError as exc:
        raise ArchiveError(f"saved_model.pb is damaged or no SavedModel ({exc}): {HOW_TO_EXPORT}") from exc
    graphs = model.get("meta_graphs", [])
    if len(graphs) != 1 or "graph_def" not in graphs[0]:
        raise ArchiveError(f"the SavedModel holds {len(graphs)} graphs, one is supported: {HOW_TO_EXPORT}")
    if graphs[0].get("asset_file_def"):
        raise ConversionError("the SavedModel reads asset files: do that work before the model, and export it again")
    graph = graphs[0]["graph_def"]
    functions = {_name(one): one.get("node_def", []) for one in graph.get("library", {}).get("function", ())}
    keeping = {name for name, nodes in functions.items() if any(node.get("op") in FILES for node in nodes)}
    for name, nodes in functions.items():
        if name in keeping:
            _check_keeping(name, nodes)
        else:
            _check_computing(name, nodes, keeping)
    top = graph.get("node", [])
    paths = {node.get("name") for node in top if node.get("op") == "Placeholder"} & {_SAVER_PATH}
    _check_computing("the graph", [node for node in top if not _is_saver(node, paths)], keeping)


def _name(function: Message) -> str:
    """The name in a function's signature, which is an OpDef; its first field."""
    content = function.get("signature", b"")
    fields = {number: Field(f"field_{number}", Kind.IGNORED) for number in (*range(2, 7), 8, *range(16, 24))}
    try:
        return str(read(content, {1: Field("name", Kind.TEXT), **fields}, "a function").get("name", ""))
    except ProtobufError as exc:
        raise ArchiveError(f"a function of the SavedModel is damaged ({exc}): {HOW_TO_EXPORT}") from exc


def _check_computing(place: str, nodes: list[Message], keeping: set[str]) -> None:
    for node in nodes:
        kind = node.get("op", "")
        if kind not in COMPUTING:
            raise ConversionError(
                f"the SavedModel uses {kind[:_NAME_CHARS]} ({node.get('name', '')[:_NAME_CHARS]!r} in "
                f"{place[:_NAME_CHARS]}), which is not on the list of operators that only compute: export the model "
                "without it"
            )
        called = next((name for name in _called(node) if name in keeping), None)
        if called is not None:
            raise ConversionError(
                f"the SavedModel calls {called[:_NAME_CHARS]}, which works with files, from {place[:_NAME_CHARS]}: "
                f"{HOW_TO_EXPORT}"
            )


def _called(node: Message) -> Iterator[str]:
    """The functions that a node calls."""
    for attribute in node.get("attr", ()):
        value = attribute.get("value", {})
        for function in [value.get("func", {}), *value.get("list", {}).get("func", ())]:
            yield function.get("name", "")


def _is_saver(node: Message, paths: set[str]) -> bool:
    """Whether this is a call of the saver: its first input is the path that the loader gives."""
    calls = node.get("op") in {"StatefulPartitionedCall", "PartitionedCall"}
    return calls and bool(node.get("input")) and node["input"][0] in paths


def _check_keeping(name: str, nodes: list[Message]) -> None:
    """A function that saves or restores the variables, in the form that TensorFlow writes."""
    made_by = {node.get("name", ""): node for node in nodes}
    for node in nodes:
        kind, inputs = node.get("op", ""), node.get("input", [])
        if kind not in KEEPING:
            raise ConversionError(
                f"the SavedModel uses {kind[:_NAME_CHARS]} in {name[:_NAME_CHARS]}, which works with files: "
                f"{HOW_TO_EXPORT}"
            )
        path = inputs[-1] if kind == "MergeV2Checkpoints" else next(iter(inputs), ":")
        if kind in FILES | {"StringJoin"} and not _is_argument(path, made_by):
            raise ConversionError(
                f"{kind} in {name[:_NAME_CHARS]} of the SavedModel works with a file of its own choice: {HOW_TO_EXPORT}"
            )
        if kind == "Const" and any(b".." in bytes(value) for value in _texts(node)):
            raise ConversionError(
                f"{name[:_NAME_CHARS]} of the SavedModel holds a path that leads out: {HOW_TO_EXPORT}"
            )


def _is_argument(path: str, made_by: dict[str, Message]) -> bool:
    """Whether a path is the function's argument, or begins with it."""
    for _ in range(len(made_by) + 1):
        if ":" not in path:
            return path not in made_by and not path.startswith("^")
        maker = made_by.get(path.partition(":")[0], {})
        if maker.get("op") not in {"StringJoin", "ShardedFilename", "Identity"} or not maker.get("input"):
            return False
        path = maker["input"][0]
    return False


def _texts(node: Message) -> Iterator[bytes | memoryview]:
    for attribute in node.get("attr", ()):
        value = attribute.get("value", {})
        yield value.get("tensor", b"")
        yield value.get("s", b"")
