"""The file with the local admin's token, for the commands on the registry's machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from server.places import LOCAL_TOKEN_NAME, STATE_NAME

if TYPE_CHECKING:
    from pathlib import Path

_MAX_LENGTH: Final = 512


def read_token_file(path: Path) -> str | None:
    """The token in a file; None: there is none, or this user may not read it."""
    try:
        with path.open("r", encoding="ascii") as file:
            return file.read(_MAX_LENGTH).strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def local_token(data_dir: Path, url: str) -> str | None:
    """The token of the registry in a data folder, if its `up` says that it answers at this very address."""
    try:
        state = json.loads((data_dir / STATE_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(state, dict) or str(state.get("api_url")).rstrip("/") != url:
        return None
    return read_token_file(data_dir / LOCAL_TOKEN_NAME)
