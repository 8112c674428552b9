"""A peer's own Python environment beside the checkout, made once: what it wants need not fit what Shoal wants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(peer: str, wanted: Sequence[str]) -> Path:
    """The Python of a peer's environment; made where there is none that holds `wanted`, as pip spells it."""
    folder = REPOSITORY / f".venv-bench-{peer}"
    python, mark = folder / "bin" / "python", folder / ".installed"
    if mark.exists() and mark.read_text() == " ".join(wanted):
        return python
    print(f"installing {wanted[0]} into {folder.name} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "-q", *wanted]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{wanted[0]} can't be installed, use --without-{peer}: {done.stderr[-600:]}")
    mark.write_text(" ".join(wanted))
    return python
