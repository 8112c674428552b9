"""Telemetry of models in this process: to the agent by Unix datagram, without ever waiting for it."""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from edge_agent.protocol.messages import MalformedMessageError, TelemetryReport, encode
from edge_agent.runner.journal import UNSPOOLED
from edge_agent.supervisor.listeners import short_path

if TYPE_CHECKING:
    from edge_agent.errors import EdgeAgentError
    from edge_agent.layout import Layout
    from edge_agent.pointer import ActivePointer

log = logging.getLogger(__name__)
KEPT_REPORTS = 60  # while the agent is away; the oldest goes first


class Reports:
    """Windows on their way to the agent."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.report_socket
        self._kept: deque[bytes] = deque(maxlen=KEPT_REPORTS)

    def add(self, report: TelemetryReport | None) -> None:
        """Take a report in."""
        if report is None:
            return
        try:
            self._kept.append(encode(report))
        except MalformedMessageError as exc:
            log.warning("a telemetry window was dropped: %s", exc)

    def send(self) -> None:
        """Send what is here; what the agent does not take stays for the next time."""
        if not self._kept:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, short_path(self._path) as address:
                sender.setblocking(False)
                while self._kept:
                    sender.sendto(self._kept[0], address)
                    self._kept.popleft()
        except OSError as exc:  # away, or its queue is full
            log.debug("the agent takes no reports now: %s", exc)


def failure(pointer: ActivePointer, exc: EdgeAgentError) -> TelemetryReport:
    """A window that says only that this deployment did not load."""
    return TelemetryReport(
        spool_id=UNSPOOLED,
        sequence=0,
        model=pointer.model,
        version=pointer.version,
        variant_id=pointer.variant_id,
        deployment_id=pointer.deployment_id,
        window_start=max(0.0, time.time()),
        window_s=0.0,
        source="inprocess",
        errors={exc.code: 1},
    )
