"""From the options of a command to a connected client, and from its errors to a sentence and an exit code."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli.output import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.client import RegistryClient

USAGE_CODES = frozenset({"bad_url"})


@contextmanager
def connected(registry: str | None) -> "Iterator[RegistryClient]":
    """A client of the registry that is meant; its errors end the program."""
    from server.client import RegistryClient, RegistryClientError  # noqa: PLC0415  httpx: `--help` must not wait for it

    try:
        with RegistryClient(registry or local_registry()) as client:
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


def local_registry() -> str:
    """The registry whose `up` runs, or last ran, on this machine."""
    advice = "give its address with --registry URL or SHOAL_REGISTRY, or run `edge-registry up`"
    try:
        # only where the server extra is installed can a registry have run
        from server.settings import default_data_dir  # noqa: PLC0415
        from server.stack import stack_state  # noqa: PLC0415
        from server.stack.errors import StackError  # noqa: PLC0415
    except ImportError:
        fail(f"No registry is known here: {advice}.")
    data_dir = os.environ.get("SHOAL_DATA_DIR")
    try:
        state = stack_state(Path(data_dir).expanduser() if data_dir else default_data_dir())
    except StackError as exc:
        fail(str(exc))
    if state is None:
        fail(f"No registry has run on this machine yet: {advice}.")
    return state.api_url
