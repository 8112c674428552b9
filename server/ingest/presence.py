"""Presence and status of a device as a merge of what is known and what arrives. Pure: no clock, no database.

Messages arrive twice, late and out of order: of two births the one of the newer (session counter, session id) counts,
and within one session `offline` is the end; of two statuses the higher sequence counts. Both live on the device and
grow with its clock, so that one which has lost its memory is still heard. A wiped device has lost its identity too and
must join again: a row that is older than the joining belongs to the previous life, and starts anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from edge_agent.protocol.messages import Presence, Status

PresenceWord = Literal["online", "offline", "unknown", "never"]

LEASE_INTERVALS: Final = 2.0


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A row of `device_states`."""

    device_id: str
    session_id: str | None = None
    session_counter: int = 0
    online: bool = False
    last_seen_at: float = 0.0
    status_sequence: int = -1
    status: dict[str, Any] | None = None
    observed_epoch: int = 0
    observed_generation: int = 0
    news: int = 0
    """Grows over all devices: the device with the highest has changed last."""


def presence_of(row: Mapping[str, Any] | None, now: float, interval: float) -> PresenceWord:
    """What to say of a device now.

    Args:
        row: its row of `device_states` (`session_id`, `online`, `last_seen_at`), or of an outer join; None: no row.
        now: seconds since 1970.
        interval: how often, in seconds, a device reports its status; unheard for two of these it is `unknown`.
    """
    if row is None or not row["last_seen_at"]:
        return "never"
    if row["session_id"] is not None and not row["online"]:
        return "offline"
    # heard, but its birth was lost: it is as alive as what it says
    return "online" if now - row["last_seen_at"] <= LEASE_INTERVALS * interval else "unknown"


def merge_presence(state: DeviceState, presence: Presence) -> DeviceState:
    """The state after a birth or a last will; the same object when it is no news."""
    known = (state.session_counter, state.session_id or "")
    if (presence.session_counter, presence.session_id) > known:
        return replace(
            state,
            session_id=presence.session_id,
            session_counter=presence.session_counter,
            online=presence.online,
        )
    if presence.session_id == state.session_id and state.online and not presence.online:
        return replace(state, online=False)
    return state


def merge_status(state: DeviceState, status: Status) -> DeviceState:
    """The state after a status report; the same object when it is no news."""
    if status.sequence <= state.status_sequence:
        return state
    return replace(
        state,
        status_sequence=status.sequence,
        status=status.model_dump(mode="json", exclude_none=True),
        observed_epoch=status.observed_epoch,
        observed_generation=status.observed_generation,
    )


def is_news(before: DeviceState, after: DeviceState) -> bool:
    """Whether a status says something else than the one before, beside counters and figures that always move."""
    return _gist(before.status) != _gist(after.status)


def in_this_life(state: DeviceState, joined_at: float) -> DeviceState:
    """The state that counts for a device which joined at `joined_at`: an empty one when the row is older."""
    return state if state.last_seen_at >= joined_at else DeviceState(device_id=state.device_id)


def _gist(status: Mapping[str, Any] | None) -> set[tuple[object, ...]]:
    told = (status or {}).get("deployments", ())
    return {
        (
            one.get("deployment_id"),
            one.get("state"),
            one.get("reason"),
            one.get("serving"),
            one.get("file_sha256"),
            (one.get("self_test") or {}).get("passed"),
        )
        for one in told
    }
