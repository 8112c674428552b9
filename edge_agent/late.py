"""Modules that load at their first use: libraries import them at their top, and an idle supervisor never needs them.

`importlib.util.LazyLoader` does not serve: before Python 3.12 the next `import` of the same name loads the module, and
two threads at its first use can see half of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType

# paho wants `urllib.request` for its proxies, pydantic `importlib.metadata` for its plugins; HTTP is for joining and
# the other transport, `shutil` for removing. With `email`, `zipfile`, `csv` and `bz2`, which come along, they are
# 2.5 MB of a process that lives for months.
UNUSED_WHEN_IDLE = ("urllib.request", "importlib.metadata", "http.client", "shutil")
_loading = threading.RLock()


class _LateModule(ModuleType):
    """Stands in `sys.modules` until something of the module is asked for."""

    def __getattr__(self, name: str) -> object:
        with _loading:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            module = importlib.import_module(self.__name__)
        return getattr(module, name)


def postpone(*names: str) -> None:
    """Let modules load when something of them is first asked for; one that is loaded already stays as it is."""
    for name in names:
        if name in sys.modules:
            continue
        sys.modules[name] = module = _LateModule(name)
        package, _, attribute = name.rpartition(".")
        if package:  # as an import would: `package.module` is looked up in the package
            setattr(importlib.import_module(package), attribute, module)


def without_its_init(package: str, **names: str) -> None:
    """Let a package's modules be imported without all that the package itself imports.

    For `uvicorn`, of which a runner needs the protocol: its `__init__` brings the command line, `click` and
    `multiprocessing`, 2.5 MB of each runner.

    Args:
        package: one whose `__init__` only gathers names.
        names: what is asked of the package all the same, and the module of the package that has it.
    """
    spec = importlib.util.find_spec(package)
    if package in sys.modules or spec is None:
        return

    def gathered(name: str) -> object:
        if name not in names:
            raise AttributeError(f"{package} was imported without its __init__, and so has no {name}")
        return getattr(importlib.import_module(f"{package}.{names[name]}"), name)

    sys.modules[package] = module = importlib.util.module_from_spec(spec)
    vars(module)["__getattr__"] = gathered
