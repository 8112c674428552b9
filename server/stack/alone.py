"""The embedded object store without the rest of the stack, for whoever reads or fills it while no `up` runs."""

from __future__ import annotations

import os
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from server.errors import SettingsError
from server.stack.child import Child
from server.stack.lock import DataDirLock, wait_for_last_run
from server.stack.objects import INTERNAL_PORTS, KEYS_NAME, embedded_keys, remove_sockets, weed_command
from server.stack.plan import make_folders
from server.stack.ports import LOOPBACK, choose_ports
from server.stack.state import stack_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.settings import RegistrySettings
    from server.stack.objects import S3Keys


@contextmanager
def reachable_objects(settings: RegistrySettings) -> Iterator[RegistrySettings]:
    """Settings that name an S3: their own, else the one of the `up` that runs, else the embedded one, started alone.

    Raises:
        AlreadyRunningError: an `up` is just starting or stopping.
        SettingsError: there is no embedded store here.
        StackError: it can't be started.
    """
    if settings.s3_endpoint is not None:
        yield settings
        return
    state = stack_state(settings.data_dir)
    if state is not None and state.is_running:
        if "s3" not in state.ports:
            raise SettingsError(
                f"The registry in {settings.data_dir} keeps its objects at {state.s3_endpoint}: give the settings that "
                "its `up` has (s3_endpoint, s3_access_key, s3_secret_key)."
            )
        yield _with_objects(settings, state.s3_endpoint, embedded_keys(settings.data_dir))
        return
    if not (settings.data_dir / KEYS_NAME).exists():
        raise SettingsError(f"There are no objects in {settings.data_dir}: give the settings that the registry has.")
    with DataDirLock(settings.data_dir), objects_alone(settings) as filled:
        yield filled


@contextmanager
def objects_alone(settings: RegistrySettings) -> Iterator[RegistrySettings]:
    """Start the embedded store on ports of its own; the caller holds the data folder, and this is the main thread.

    It needs a moment before it answers.

    Raises:
        StackError: it can't be started.
    """
    make_folders(settings.data_dir)
    wait_for_last_run(settings.data_dir)
    ports = choose_ports(("s3", *INTERNAL_PORTS), fixed={}, addresses=[LOOPBACK], chance=random.SystemRandom())
    keys = embedded_keys(settings.data_dir)
    command = weed_command(settings.data_dir / "s3", address=LOOPBACK, ports=ports, keys=keys)
    child = Child(command, log_dir=settings.log_dir, environment=dict(os.environ))
    child.start()
    try:
        yield _with_objects(settings, f"http://{LOOPBACK}:{ports['s3']}", keys)
    finally:
        child.ask_to_stop()
        child.finish(time.monotonic() + command.stop_grace_s)
        remove_sockets(ports)


def _with_objects(settings: RegistrySettings, endpoint: str, keys: S3Keys) -> RegistrySettings:
    return settings.with_values(
        s3_endpoint=endpoint, s3_access_key=keys.access_key, s3_secret_key=SecretStr(keys.secret_key)
    )
