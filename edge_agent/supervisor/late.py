"""Modules that load at their first use: libraries import them at their top, and an idle supervisor never needs them.

`importlib.util.LazyLoader` does not serve: before Python 3.12 the next `import` of the same name loads the module, and
two threads at its first use can see half of it.
"""

from __future__ import annotations

import importlib
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
