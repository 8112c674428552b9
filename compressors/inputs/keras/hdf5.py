"""The gate for HDF5 files: arrays of numbers inside this very file, and nothing that reaches out of it.

An HDF5 file may link to other files, keep a dataset's bytes elsewhere, be a view of other datasets, and name filters
that the library would load as code. Each link and dataset is looked at before a value is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressors.errors import ArchiveError, ExtraMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_DATASETS = 100_000
MAX_DEPTH = 32
MAX_VALUES_BYTES = 4 << 30
_NAME_CHARS = 120


def check_file(path: Path) -> None:
    """Look at every link and dataset of a file.

    Raises:
        ArchiveError: it is damaged, or holds something else than numbers of its own; the sentence names it.
    """
    h5py = _library()
    try:
        with h5py.File(path, "r") as file:
            size_bytes = 0
            for number, (name, dataset) in enumerate(_datasets(h5py, file)):
                if number >= MAX_DATASETS:
                    raise ArchiveError(f"the HDF5 file holds more than {MAX_DATASETS} datasets")
                _check_dataset(name, dataset)
                size_bytes += dataset.nbytes
                if size_bytes > MAX_VALUES_BYTES:
                    raise ArchiveError(
                        f"the weights unpack to more than {MAX_VALUES_BYTES} bytes, which is not allowed: "
                        "push a smaller model"
                    )
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as exc:
        raise ArchiveError(f"the HDF5 file is damaged ({_said(exc)}): copy it again") from exc


def read_attribute(path: Path, name: str) -> str | None:
    """A text attribute of the root of a checked file; None where there is none.

    Raises:
        ArchiveError: it is no text, or the file is damaged.
    """
    h5py = _library()
    try:
        with h5py.File(path, "r") as file:
            value = file.attrs.get(name)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as exc:
        raise ArchiveError(f"the HDF5 file is damaged ({_said(exc)}): copy it again") from exc
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if value is not None and not isinstance(value, str):
        raise ArchiveError(f"the attribute {name} of the HDF5 file is no text")
    return value


def _library() -> Any:  # noqa: ANN401  h5py ships no types
    try:
        import h5py  # noqa: PLC0415  an extra
    except ImportError as exc:
        raise ExtraMissingError("Keras models need the extra `keras` where jobs run: pip install shoal[keras]") from exc
    return h5py


def _datasets(h5py: Any, root: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every dataset by its path; each object once, so that links in a circle end."""
    pending, seen = [("", root, 0)], {root.id.__hash__()}
    while pending:
        path, group, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ArchiveError(f"the HDF5 file holds groups more than {MAX_DEPTH} deep")
        for key in group:
            name = f"{path}/{key}"
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ArchiveError(
                    f"{name[:_NAME_CHARS]!r} of the HDF5 file is a link elsewhere ({type(link).__name__}), which is "
                    "never followed: store the weights in the file itself"
                )
            item = group[key]
            if item.id.__hash__() in seen:
                continue
            seen.add(item.id.__hash__())
            if isinstance(item, h5py.Group):
                pending.append((name, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                yield name, item


def _check_dataset(name: str, dataset: Any) -> None:  # noqa: ANN401
    shown = name[:_NAME_CHARS]
    if dataset.external or dataset.is_virtual:
        raise ArchiveError(f"{shown!r} of the HDF5 file keeps its values in other files, which are never read")
    filters = dataset.id.get_create_plist()
    foreign = next((filters.get_filter(i)[0] for i in range(filters.get_nfilters()) if not _is_known(filters, i)), None)
    if foreign is not None:
        raise ArchiveError(
            f"{shown!r} of the HDF5 file is packed with the filter {foreign}, which is not known: save the model anew"
        )
    if dataset.dtype.kind not in "fiub" and dataset.dtype.name != "bfloat16":
        raise ArchiveError(f"{shown!r} of the HDF5 file holds {dataset.dtype} values, which are no numbers")


def _is_known(filters: Any, index: int) -> bool:  # noqa: ANN401
    return filters.get_filter(index)[0] in {1, 2, 3}  # deflate, shuffle, checksum: part of the library itself


def _said(exc: Exception) -> str:
    return " ".join(str(exc).split())[:160]
