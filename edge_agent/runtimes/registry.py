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
    """Where a runtime comes from, and the module with the `open_installed` that opens it."""

    distribution: str
    adapter: str


PACKAGES = {
    RuntimeName.LITERT: Package("ai-edge-litert", "edge_agent.runtimes.interpreter"),
    RuntimeName.TFLITE: Package("tflite-runtime", "edge_agent.runtimes.interpreter"),
    RuntimeName.ONNX: Package("onnxruntime", "edge_agent.runtimes.onnx"),
    RuntimeName.EXECUTORCH: Package("executorch", "edge_agent.runtimes.executorch"),
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
        # numpy and the runtime itself, only for who infers
        runtime: Runtime = importlib.import_module(package.adapter).open_installed(name, installed)
    except ImportError as exc:
        raise RuntimeMissingError(f"the runtime {name} is installed but does not load: {exc}") from exc
    return runtime
