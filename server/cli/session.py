"""From the options of a command to a connected client, and from its errors to a sentence and an exit code."""

from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.cli.output import fail
from server.operators.token_file import local_token
from server.places import usual_data_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.client import RegistryClient
    from server.stack import StackState

USAGE_CODES = frozenset({"bad_url", "bad_token"})


@contextmanager
def connected(registry: str | None) -> "Iterator[RegistryClient]":
    """A client of the registry that is meant, logged in where a login is known; its errors end the program."""
    with refused_by_registry():
        from server.client import RegistryClient  # noqa: PLC0415  httpx: `--help` must not wait for it
        from server.client.credentials import stored_login  # noqa: PLC0415

        with RegistryClient(registry or usual_registry()) as stranger:
            url = stranger.url
        with RegistryClient(url, token=stored_login(url) or local_token(usual_data_dir(), url)) as client:
            yield client


@contextmanager
def refused_by_registry() -> "Iterator[None]":
    """What a registry refuses, or a client can't do, ends the program with a sentence."""
    from server.client import RegistryClientError  # noqa: PLC0415  httpx: `--help` must not wait for it

    try:
        yield
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


def usual_registry() -> str:
    """The registry whose `up` runs, or last ran, on this machine; else the one that was logged in to last."""
    from server.client.credentials import read_logins  # noqa: PLC0415

    state = _local_state()
    if state is not None:
        return state.api_url
    last = read_logins().last
    if last is None:
        fail(
            "No registry is known here: give its address with --registry URL or SHOAL_REGISTRY, log in with "
            "`edge-registry login URL`, or run `edge-registry up`."
        )
    return last


def _local_state() -> "StackState | None":
    try:
        # only where the server extra is installed can a registry have run
        from server.stack import stack_state  # noqa: PLC0415
        from server.stack.errors import StackError  # noqa: PLC0415

    except ImportError:
        return None
    try:
        return stack_state(usual_data_dir())
    except StackError as exc:
        fail(str(exc))
