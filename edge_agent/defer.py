"""Ask the agent here not to swap for a while: what `edge-agent defer` and in-process models do."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_agent.deployments.records import MOST_DEFER_S
from edge_agent.errors import EdgeAgentError
from edge_agent.supervisor.control import DeferRequest, ReleaseRequest, ask

if TYPE_CHECKING:
    from edge_agent.layout import Layout

MOST_REASON = 200  # characters
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600}


class DeferError(EdgeAgentError):
    """What was asked for can't be."""

    code = "bad_deferral"


@dataclass(frozen=True, slots=True)
class Deferral:
    """What an agent has granted."""

    token: str
    """Whoever has it may end it, or renew it before it ends."""
    until: float
    """Seconds since 1970, by the device's clock."""
    waiting: tuple[str, ...]
    """The deployments that wait now."""


def defer(layout: Layout, *, for_s: float, reason: str, model: str | None = None, token: str | None = None) -> Deferral:
    """Hold every swap, or those of one model, for a while.

    The rollout's limit wins: a swap that has waited for so long happens all the same.

    Args:
        layout: of the agent.
        for_s: seconds, at most a day; it ends by itself then, whatever becomes of who asked.
        reason: for people, who see it while something waits.
        model: by default every model of the device.
        token: of a deferral that shall be renewed; by default a new one.

    Raises:
        DeferError: the time or the reason can't be.
        edge_agent.supervisor.control.NoAgentError: nobody answers there.
        edge_agent.supervisor.control.RequestRefusedError: the agent says why not.
    """
    if not 0 < for_s <= MOST_DEFER_S:
        raise DeferError(f"a swap can be deferred for up to {MOST_DEFER_S:.0f} s, not for {for_s:g}: ask again later")
    if not 0 < len(reason) <= MOST_REASON:
        raise DeferError(f"give a reason of 1 to {MOST_REASON} characters: operators see it while a device waits")
    if token is not None:
        _check_token(token)
    asked = DeferRequest(token=token or uuid.uuid4().hex, model=model, for_s=for_s, reason=reason)
    answer = ask(layout.control_socket, asked)
    return Deferral(asked.token, float(answer["until"]), tuple(answer["waiting"]))


def release(layout: Layout, token: str) -> None:
    """End a deferral before its time; one that has ended already is no mistake.

    Raises:
        DeferError: that is no token.
        edge_agent.supervisor.control.NoAgentError: nobody answers there.
    """
    _check_token(token)
    ask(layout.control_socket, ReleaseRequest(token=token))


def seconds_of(text: str) -> float:
    """A time as people write it.

    >>> [seconds_of(text) for text in ("90", "30s", "10m", "1.5h")]
    [90.0, 30.0, 600.0, 5400.0]

    Raises:
        DeferError: it is none.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smh]?)", text, re.ASCII)
    if match is None:
        raise DeferError(f"{text[:40]!r} is no time: write for example 90s, 10m or 1h")
    return float(match[1]) * _UNITS_S[match[2]]


def _check_token(token: str) -> None:
    if not re.fullmatch(r"[0-9a-f]{32}", token):
        raise DeferError("that is no token of a deferral: edge-agent defer prints it, and edge-agent status --json")
