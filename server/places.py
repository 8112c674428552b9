"""Where a registry keeps what the commands on its machine look for: names, and nothing that needs a package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

STATE_NAME: Final = "stack.json"
LOCAL_TOKEN_NAME: Final = "admin-token"  # noqa: S105  a file's name


def default_data_dir() -> Path:
    """Where a registry lives when nobody says otherwise: the XDG data folder of the user."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "shoal" / "registry"


def usual_data_dir() -> Path:
    """The same, or where the environment says."""
    given = os.environ.get("SHOAL_DATA_DIR")
    return Path(given).expanduser() if given else default_data_dir()
