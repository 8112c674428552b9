"""Which runtimes are installed in this Python, and how to open one."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
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
    found = {}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package.distribution)
        except PackageNotFoundError:
            continue
    return found


def open_runtime(name: RuntimeName) -> Runtime:
    """Import a runtime.

    Raises:
        RuntimeMissingError: it is not installed in this Python, or its native part does not load.
    """
    package = PACKAGES[name]
    try:
        installed = version(package.distribution)
        module = importlib.import_module(package.module)
    except PackageNotFoundError as exc:
        raise RuntimeMissingError(
            f"the runtime {name} is not installed here: pip install {package.distribution}"
        ) from exc
    except ImportError as exc:
        raise RuntimeMissingError(f"the runtime {name} is installed but does not load: {exc}") from exc
    from edge_agent.runtimes.interpreter import InterpreterRuntime  # noqa: PLC0415  numpy, only for who infers

    return InterpreterRuntime(name, installed, module)
