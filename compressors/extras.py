"""Libraries that only some targets need: whoever misses one is told what to install."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from compressors.errors import ExtraMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import libraries of an extra of this package inside.

    Raises:
        ExtraMissingError: one is not installed, or does not load.
    """
    try:
        yield
    except ImportError as exc:
        raise ExtraMissingError(
            f"this needs the extra {name} where jobs run ({exc}): pip install 'shoal[{name}]'"
        ) from exc
