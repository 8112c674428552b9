"""The gate for `.pt2` uploads: what may be loaded, decided without loading it, and a clean copy that holds no more.

`torch.export.load` (2.13) is not free of code: it unpickles weights and constants whose payload entry says
`use_pickle`, custom and opaque objects, and sample inputs; it evaluates symbolic expressions as Python (sympy), runs
`guards_code`, and resolves a node's target by walking attributes of the torch module (`torch.serialization.os.system`
is a path, too). So every entry and every such string is held against an allow-list here, by the standard library alone,
and torch is given a copy without sample inputs and without guards. It is loaded in a limited subprocess all the same.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any

from compressors.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_ENTRIES = 20_000
MAX_JSON_BYTES = 64 << 20
PICKLE_MAGIC = b"\x80"
HOW_TO_EXPORT = "make it with torch.export.save(torch.export.export(model, example_inputs), 'model.pt2')"

_ALLOWED_ENTRY = re.compile(
    r"models/model\.json|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|extra/[A-Za-z0-9_.-]+"
)
_SAMPLE_INPUTS = re.compile(r"data/sample_inputs/[A-Za-z0-9_.-]+\.pt")
_EMPTY_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_MODEL = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")

# `from_file` maps any file of this machine (and writes it, if `shared`); `save` writes one; the others only talk
_FORBIDDEN_OPERATORS = "from_file|save|warn|_print|_test_[a-z_]+"
_ALLOWED_TARGET = re.compile(
    rf"(?!torch\.ops\.aten\.({_FORBIDDEN_OPERATORS})\.)torch\.ops\.aten\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge)"
    r"|torch\.(sym_int|sym_float|sym_max|sym_min|sym_sum)|math\.(ceil|floor|trunc)"
)
# what torch writes for the length of a free dimension: symbols with assumptions, integers, and arithmetic on them
_ALLOWED_EXPRESSION = re.compile(
    r"(Symbol\('[A-Za-z_][A-Za-z0-9_]*'(, (positive|integer|nonnegative)=True)*\)|Integer\(-?\d+\)"
    r"|Pow\(Symbol\('[A-Za-z_][A-Za-z0-9_]*'(, (positive|integer|nonnegative)=True)*\), Integer\(-?\d\)\)"
    r"|\b(Add|Mul|Max|Min|FloorDiv|Mod|PythonMod|CeilDiv|ModularIndexing)\(|\b[su]\d+\b|\d++|[-+*/(), ])*"
)
MAX_EXPRESSION_CHARS = 2000
_FORBIDDEN_KEYS = {
    "as_custom_obj": "a custom object",
    "as_opaque": "an opaque object",
    "as_graph": "a graph within the graph",
}
# what zipfile raises for damaged, encrypted or exotic archives
_DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, struct.error)
_ALLOWED_TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def clean_copy(source: Path, destination: Path) -> None:
    """Check a `.pt2` and write the copy that may be loaded.

    Raises:
        ArchiveError: it may not be loaded; the sentence names the first entry or field that is to blame.
    """
    _refuse_other_formats(source)
    try:
        with zipfile.ZipFile(source) as archive:
            root, entries = _checked_entries(archive, source.stat().st_size)
            model = _json(archive, entries, _MODEL)
            _check_model(model)
            for name in _CONFIGS:
                if name in entries:
                    _check_payloads(_json(archive, entries, name), name)
            _write(archive, root, entries, model, destination)
    except _DAMAGED as exc:
        raise ArchiveError(f"{source.name} is damaged ({exc}): copy it again, or {HOW_TO_EXPORT}") from exc


def _refuse_other_formats(source: Path) -> None:
    with source.open("rb") as file:
        head = file.read(4)
    if head[:1] == PICKLE_MAGIC:
        raise ArchiveError(f"{source.name} is a pickle, and unpickling an upload could run any code: {HOW_TO_EXPORT}")
    if head != b"PK\x03\x04":
        raise ArchiveError(f"{source.name} is not a .pt2 archive: {HOW_TO_EXPORT}")


def _checked_entries(archive: zipfile.ZipFile, archive_bytes: int) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise ArchiveError(f"the archive has {len(infos)} entries, at most {MAX_ENTRIES} are allowed")
    root = infos[0].filename.partition("/")[0] if infos else ""
    repeated = [name for name, count in Counter(info.filename for info in infos).items() if count > 1]
    if repeated:
        raise ArchiveError(f"the archive holds the entry {repeated[0]!r} twice")
    entries = {}
    for info in infos:
        folder, _, name = info.filename.partition("/")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ArchiveError(
                f"the entry {info.filename!r} is compressed; torch.export.save stores entries as they are"
            )
        if folder == root and _SAMPLE_INPUTS.fullmatch(name):
            continue  # example inputs, a torch file: left out, never read
        if folder != root or not _ALLOWED_ENTRY.fullmatch(name):
            raise ArchiveError(
                f"the archive holds {info.filename!r}, which is no part of an exported model: {HOW_TO_EXPORT}"
            )
        entries[name] = info
    if sum(info.file_size for info in infos) > archive_bytes:  # entries that overlap unpack to more than was sent
        raise ArchiveError("the entries of the archive are larger than the archive itself: it is no export of torch")
    if _MODEL not in entries or "archive_format" not in entries:
        raise ArchiveError(f"the archive is a zip file but holds no exported model ({_MODEL}): {HOW_TO_EXPORT}")
    if archive.read(entries["archive_format"]) != b"pt2":
        raise ArchiveError(f"the archive is of another format than pt2: {HOW_TO_EXPORT}")
    return root, entries


def _json(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str) -> dict[str, Any]:
    if entries[name].file_size > MAX_JSON_BYTES:
        raise ArchiveError(f"{name} has {entries[name].file_size} bytes, at most {MAX_JSON_BYTES} are allowed")
    try:
        document = json.loads(archive.read(entries[name]))
    except (ValueError, RecursionError) as exc:
        raise ArchiveError(f"{name} in the archive is not JSON: {HOW_TO_EXPORT}") from exc
    if not isinstance(document, dict):
        raise ArchiveError(f"{name} in the archive is not a JSON object: {HOW_TO_EXPORT}")
    return document


def _check_payloads(config: dict[str, Any], name: str) -> None:
    payloads = config.get("config")
    if not isinstance(payloads, dict):
        raise ArchiveError(f"{name} has no table of payloads: {HOW_TO_EXPORT}")
    for tensor, payload in payloads.items():
        if not isinstance(payload, dict) or payload.get("use_pickle") is not False:
            raise ArchiveError(f"the payload of {tensor!r} is pickled, and unpickling an upload could run any code")
        path = payload.get("path_name")
        if not isinstance(path, str) or not re.fullmatch(r"(weight|tensor)_\d+", path):
            raise ArchiveError(f"the payload of {tensor!r} lies at {path!r}, which is not a tensor of the archive")


def _check_model(model: dict[str, Any]) -> None:
    for key, value in _walk(model):
        if key in _FORBIDDEN_KEYS and value is not None:
            raise ArchiveError(
                f"the model holds {_FORBIDDEN_KEYS[key]}, which is not supported: export plain torch layers"
            )
        if key == "expr_str" and not _is_plain_expression(value):
            raise ArchiveError(f"the model holds the expression {str(value)[:80]!r}, which is not plain arithmetic")
        if key in {"in_spec", "out_spec"}:
            _check_tree(value)
        if key == "nodes":
            _check_nodes(value)


def _is_plain_expression(value: object) -> bool:
    if not isinstance(value, str) or len(value) > MAX_EXPRESSION_CHARS or "**" in value:  # 9**9**9 takes hours
        return False
    return bool(_ALLOWED_EXPRESSION.fullmatch(value))


def _check_nodes(nodes: object) -> None:
    for node in nodes if isinstance(nodes, list) else [None]:
        target = node.get("target") if isinstance(node, dict) else None
        if not isinstance(target, str) or not _ALLOWED_TARGET.fullmatch(target):
            raise ArchiveError(
                f"the model calls {str(target)[:80]!r}, which is not an operator of torch.ops.aten: "
                "replace the layer that uses it, or export with torch.export.export and run_decompositions()"
            )


def _check_tree(spec: object) -> None:
    try:
        document = json.loads(spec) if isinstance(spec, str) else None
    except (ValueError, RecursionError) as exc:
        raise ArchiveError("the model's description of its arguments is not JSON") from exc
    for key, value in _walk(document):
        if key == "type" and value not in _ALLOWED_TREE_TYPES:
            raise ArchiveError(
                f"the model takes or gives a {value}; only tensors, tuples, lists and dicts are supported"
            )


def _walk(document: object) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested objects."""
    pending = [document]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield from current.items()
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _write(
    archive: zipfile.ZipFile,
    root: str,
    entries: dict[str, zipfile.ZipInfo],
    model: dict[str, Any],
    destination: Path,
) -> None:
    model = {**model, "guards_code": []}  # Python source that torch would execute
    with zipfile.ZipFile(destination, "w", zipfile.ZIP_STORED) as copy:
        for name, info in entries.items():
            content = json.dumps(model).encode() if name == _MODEL else archive.read(info)
            copy.writestr(f"{root}/{name}", content)
        copy.writestr(f"{root}/{_EMPTY_SAMPLE_INPUTS}", b"")  # torch wants the entry; empty, it unpickles nothing
