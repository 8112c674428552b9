"""Find files that lie inside installed packages, without importing the packages: some need far more than their data."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


class DataMissingError(Exception):
    """A package that carries the data is not installed."""


def packaged_files(distribution: str, *, suffix: str, under: str = "") -> list[Path]:
    """Files of an installed distribution by the end of their name, sorted.

    Raises:
        DataMissingError: the distribution is not installed, or holds no such file.
    """
    try:
        entries = files(distribution) or []
    except PackageNotFoundError as exc:
        raise DataMissingError(f"{distribution} is not installed: run `make demo`, which fetches it") from exc
    found = sorted(
        Path(str(entry.locate())) for entry in entries if str(entry).endswith(suffix) and str(entry).startswith(under)
    )
    if not found:
        raise DataMissingError(
            f"{distribution} holds no file that ends in {suffix}: install the version in requirements/"
        )
    return found
