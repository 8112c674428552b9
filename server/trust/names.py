"""What certificates call their holders. A device's name is its id, and no process of the registry's."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from edge_agent.protocol.base import NAME_PATTERN

# a colon stands in no device's id, and neither `+`, `#` nor `/`, which mean something in topics, in any name
_SERVICE: Final = re.compile(r"registry:[a-z]+(:[A-Za-z0-9][A-Za-z0-9._-]{0,39})?\Z")
_DEVICE: Final = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")


class Role(StrEnum):
    """What a process of the registry is at the broker."""

    API = "api"  # asks whether the broker answers
    CONTROLLER = "controller"
    DELIVERY = "delivery"
    INGEST = "ingest"
    UP = "up"  # asks the same while it starts


def service_name(role: Role, instance: str | None = None) -> str:
    """The name of a process; of several in one role each but the first has an instance.

    Raises:
        ValueError: the instance can't stand in a name.
    """
    name = f"registry:{role}" if instance is None else f"registry:{role}:{instance}"
    if not _SERVICE.match(name):
        raise ValueError(f"{instance!r} can't name an instance: write up to 40 letters, digits, dots, dashes")
    return name


def role_of(name: str) -> Role | None:
    """The role of a process by its name; None: no process of ours is called so."""
    if not _SERVICE.match(name):
        return None
    return next((role for role in Role if name.split(":")[1] == role), None)


def is_device_name(name: str) -> bool:
    """Whether a device may be called so: the same grammar as in topics and paths."""
    return bool(_DEVICE.match(name)) and ".." not in name
