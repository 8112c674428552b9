"""From the options of a command to a connected client, and from its errors to a sentence and an exit code."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli.output import fail
from server.trust.paths import FOLDER_NAME, TrustPaths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.client import RegistryClient
    from server.stack.state import StackState

CA_VARIABLE = "SHOAL_CA"
_ADVICE = "give its address with --registry URL or SHOAL_REGISTRY, or run `edge-registry up`."
USAGE_CODES = frozenset({"bad_url", "bad_ca"})


@contextmanager
def connected(registry: str | None) -> "Iterator[RegistryClient]":
    """A client of the registry that is meant; its errors end the program."""
    from server.client import RegistryClient, RegistryClientError  # noqa: PLC0415  httpx: `--help` must not wait for it

    try:
        url, ca = meant_registry(registry)
        with RegistryClient(url, ca=ca) as client:
            yield client
    except RegistryClientError as exc:
        fail(exc.message, exit_code=2 if exc.code in USAGE_CODES else 1)


@contextmanager
def refusals() -> "Iterator[None]":
    """For a command that runs the registry's own code: what that refuses ends the program with a sentence."""
    from server.errors import RegistryError, SettingsError  # noqa: PLC0415  `--help` must not wait for it

    try:
        yield
    except ImportError as exc:  # an operator's machine may have the client extra alone
        fail(f"Running a registry needs more than its client ({exc.name} is missing): pip install 'shoal[server]'.")
    except RegistryError as exc:
        fail(str(exc), exit_code=2 if isinstance(exc, SettingsError) else getattr(exc, "exit_code", 1))


def meant_registry(registry: str | None) -> tuple[str, Path | None]:
    """Address and root certificate of the registry that is meant: the one that is named, else the one of this machine.

    None for the root: whoever connects looks at SHOAL_CA.
    """
    state = _state_here() if registry is None or not os.environ.get(CA_VARIABLE) else None
    if registry is not None and (state is None or registry.rstrip("/") != state.api_url):
        return registry, None
    if state is None:
        fail("No registry has run on this machine yet: " + _ADVICE)
    return state.api_url, None if os.environ.get(CA_VARIABLE) else TrustPaths(_data_dir() / FOLDER_NAME).root


def _state_here() -> "StackState | None":
    try:
        # only where the server extra is installed can a registry have run
        from server.stack.errors import StackError  # noqa: PLC0415
        from server.stack.state import stack_state  # noqa: PLC0415
    except ImportError:
        return None
    try:
        return stack_state(_data_dir())
    except StackError as exc:
        fail(str(exc))


def _data_dir() -> Path:
    from server.settings import default_data_dir  # noqa: PLC0415

    named = os.environ.get("SHOAL_DATA_DIR")
    return Path(named).expanduser() if named else default_data_dir()
