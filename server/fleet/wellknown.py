"""Profiles that come with the agent register themselves when a device or a token names one for the first time."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from edge_agent.profiles import well_known
from server.catalogue.profiles import find_profile, insert_profile
from server.errors import NotFoundError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from edge_agent.protocol.profile import DeviceProfile


def require_profile(connection: sa.Connection, name: str, *, now: float) -> DeviceProfile:
    """The registered profile, else the well-known one, which is registered by this.

    Raises:
        NotFoundError: it is neither.
    """
    profile = find_profile(connection, name)
    if profile is not None:
        return profile
    profile = _well_known().get(name)
    if profile is None:
        raise NotFoundError(
            f"There is no profile {name}: register it with `edge-registry profile add FILE.yaml` "
            "(`edge-agent probe` writes one from the hardware it runs on)."
        )
    insert_profile(connection, profile, now=now)
    return profile


@functools.cache  # read once: a write transaction spans no other IO
def _well_known() -> dict[str, DeviceProfile]:
    return well_known()
