"""Looks at everything once: the agent that runs here, its files, the machine. Needs no network, and no agent either.

What can't be read is said in its place: a device that is half broken is the one that is asked.
"""

from __future__ import annotations

import json
import platform
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any

from edge_agent import __version__
from edge_agent.diagnosis.disk import ledger, spooled, transfers, variants
from edge_agent.diagnosis.machine import machine
from edge_agent.errors import EdgeAgentError
from edge_agent.link import identity as identities
from edge_agent.logbook.lines import hide, tail
from edge_agent.logbook.ring import read
from edge_agent.protocol.inquiry import Diagnosis, Inquiry, InquiryKind
from edge_agent.runtimes.registry import installed_runtimes
from edge_agent.supervisor.control import NoAgentError, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import JsonValue

    from edge_agent.layout import Layout
    from edge_agent.link.identity import Identity

NOBODY = "0" * 32  # the id of a question that nobody has asked
# of what the agent tells of itself: what has a file of its own
ELSEWHERE = ("settings", "deployments", "desired", "history", "transfers", "spool")


def gather(layout: Layout, *, lines: int) -> Diagnosis:
    """Look at this device.

    Args:
        layout: the agent's files, whether one runs there or not.
        lines: of the log at most.
    """
    told = _told(layout)
    identity, unusable = _identity(layout)
    secrets = () if identity is None else (identity.key,)
    now = max(0.0, time.time())
    inquiry = Inquiry(inquiry_id=NOBODY, kind=InquiryKind.LOG, lines=lines)
    sections: Mapping[str, Callable[[], Mapping[str, Any]]] = {
        "agent": lambda: _agent(layout, told, identity, unusable),
        "settings": lambda: told.get("settings", {"error": "no agent runs here that could tell them"}),
        "machine": lambda: machine(layout, now=now),
        "runtimes": _runtimes,
        "deployments": lambda: ledger(layout) | {key: told[key] for key in ("deployments", "history") if key in told},
        "variants": lambda: variants(layout),
        "transfers": lambda: transfers(layout) | {"progress": told.get("transfers", {})},
        "telemetry": lambda: told.get("spool") or spooled(layout),
    }
    return Diagnosis(
        device_id=None if identity is None else identity.device_id,
        taken_at=now,
        log=tail(read(layout.log_dir), inquiry, now=now),
        **{name: _shown(_section(look), secrets) for name, look in sections.items()},
    )


def _told(layout: Layout) -> dict[str, Any]:
    """What the agent that runs here says of itself; empty where none does."""
    try:
        return ask(layout.control_socket)
    except NoAgentError:
        return {}


def _identity(layout: Layout) -> tuple[Identity | None, str]:
    try:
        return identities.load(layout), ""
    except EdgeAgentError as exc:
        return None, str(exc)


def _agent(layout: Layout, told: Mapping[str, Any], identity: Identity | None, unusable: str) -> dict[str, Any]:
    who = {} if identity is None else identity.model_dump(mode="json", exclude={"key"})
    return {
        **who,
        **{key: value for key, value in told.items() if key not in ELSEWHERE},
        "running": bool(told),
        "joined": identity is not None,
        "identity_error": unusable,
        "agent_version": __version__,
        "python": sys.version,
        "data_dir": str(layout.root),
    }


def _runtimes() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "installed": {name.value: version for name, version in installed_runtimes().items()},
    }


def _section(look: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return look()
    except (OSError, sqlite3.Error, ValueError, EdgeAgentError) as exc:
        return {"error": f"{type(exc).__name__}: {exc}"}


def _shown(section: Mapping[str, Any], secrets: tuple[str, ...]) -> dict[str, JsonValue]:
    """A section as plain JSON, with nothing secret in it."""
    plain = json.loads(json.dumps(section, default=str))
    return {key: _hidden(value, secrets) for key, value in plain.items()}


def _hidden(value: JsonValue, secrets: tuple[str, ...]) -> JsonValue:
    if isinstance(value, str):
        return hide(value, secrets)
    if isinstance(value, list):
        return [_hidden(one, secrets) for one in value]
    if isinstance(value, dict):
        return {key: _hidden(one, secrets) for key, one in value.items()}
    return value
