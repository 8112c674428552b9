"""What was found of each layer, kept by a hash of all that it depends on: a search asks again and again."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from pydantic import ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydantic import TypeAdapter
    from torch import fx

Found = TypeVar("Found")


def key_of(module: fx.GraphModule, asked: Sequence[object], arrays: Iterable[NDArray[np.generic]]) -> str:
    """Another one for other layers or weights, another question, or other rows.

    Args:
        module: the network.
        asked: what JSON can hold.
        arrays: of rows.
    """
    digest = hashlib.sha256(json.dumps([module.code, *asked]).encode())
    tensors = [tensor.detach().cpu().numpy() for _, tensor in sorted(module.state_dict().items())]
    for array in (*tensors, *arrays):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Shelf(Generic[Found]):
    """Documents of one kind in a folder; without a folder it keeps nothing."""

    def __init__(self, cache_dir: Path | None, kind: str, adapter: TypeAdapter[Found]) -> None:
        """Nothing is read or made yet; `kind` is part of the files' names."""
        self._cache_dir, self._kind, self._adapter = cache_dir, kind, adapter

    def read(self, key: str) -> Found | None:
        """What was kept; None: nothing, or a file that is damaged."""
        if self._cache_dir is None:
            return None
        try:
            return self._adapter.validate_json(self._path(self._cache_dir, key).read_bytes())
        except (OSError, ValidationError):
            return None

    def write(self, key: str, found: Found) -> None:
        """Keep it, whole or not at all."""
        if self._cache_dir is None:
            return
        self._cache_dir.mkdir(parents=True, exist_ok=True)
        path = self._path(self._cache_dir, key)
        temporary = path.with_suffix(".partial")
        temporary.write_bytes(self._adapter.dump_json(found))
        temporary.replace(path)

    def _path(self, cache_dir: Path, key: str) -> Path:
        return cache_dir / f"{key}.{self._kind}.json"
