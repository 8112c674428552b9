"""How the agent starts programs of its own: without docstrings, which are a twentieth of a runner's memory.

Python keeps the bytecode of such a start apart, and most installations hold none. Where it can't be written beside the
packages, because another user installed them, each start would compile everything again: 0.7 s here, a dozen on a small
board. So it is kept among the agent's own files then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PREFIX = "PYTHONPYCACHEPREFIX"


def own_program(module: str) -> tuple[str, ...]:
    """The command that runs a module of ours on this Python."""
    return (sys.executable, "-OO", "-m", module)


def environment(bytecode_dir: Path) -> dict[str, str]:
    """The variables of a child: ours, and where its bytecode goes if it can't go beside the packages."""
    ours = dict(os.environ)
    packages = Path(__file__).resolve().parents[1]
    if PREFIX not in ours and not os.access(packages, os.W_OK):
        ours[PREFIX] = str(bytecode_dir)
    return ours
