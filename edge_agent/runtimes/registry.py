"""Which runtimes are installed in this Python, and how to open one."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_agent.errors import RuntimeMissingError
from edge_agent.protocol.profile import RuntimeName

if TYPE_CHECKING:
    from edge_agent.runtimes.base import Runtime


class Package(NamedTuple):
    """Where a runtime comes from."""

    distribution: str
    module: str


PACKAGES = {
    RuntimeName.LITERT: Package("ai-edge-litert", "ai_edge_litert.interpreter"),
    RuntimeName.TFLITE: Package("tflite-runtime", "tflite_runtime.interpreter"),
}


def installed_runtimes() -> dict[RuntimeName, str]:
    """Installed runtimes and their versions; imports no interpreter."""
    versions = ((name, _version(package.distribution)) for name, package in PACKAGES.items())
    return {name: version for name, version in versions if version is not None}


def _version(distribution: str) -> str | None:
    """By the name of its metadata folder: `importlib.metadata` brings `email` and `zipfile`, 3 MB of each process."""
    stem = distribution.replace("-", "_")
    named = re.compile(rf"{stem}-(?P<version>[^-]+)(-py[\d.]+)?\.(dist|egg)-info")
    for place in sys.path:
        for path in Path(place or ".").glob(f"{stem}-*.*-info"):
            if match := named.fullmatch(path.name):
                return match["version"]
    return None


def open_runtime(name: RuntimeName) -> Runtime:
    """Import a runtime.

    Raises:
        RuntimeMissingError: it is not installed in this Python, or its native part does not load.
    """
    package = PACKAGES[name]
    installed = _version(package.distribution)
    if installed is None:
        raise RuntimeMissingError(f"the runtime {name} is not installed here: pip install {package.distribution}")
    try:
        module = importlib.import_module(package.module)
    except ImportError as exc:
        raise RuntimeMissingError(f"the runtime {name} is installed but does not load: {exc}") from exc
    from edge_agent.runtimes.interpreter import InterpreterRuntime  # noqa: PLC0415  numpy, only for who infers

    return InterpreterRuntime(name, installed, module)
