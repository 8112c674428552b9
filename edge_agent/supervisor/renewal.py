"""When the device's certificate is renewed: by a process that exits, started in time, and again until it worked."""

from __future__ import annotations

import logging
import subprocess
from typing import TYPE_CHECKING

from edge_agent.backoff import Backoff
from edge_agent.link import identity as identities
from edge_agent.link.identity import NotEnrolledError
from edge_agent.supervisor.programs import environment, own_program

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.deployments.events import Moment
    from edge_agent.layout import Layout

log = logging.getLogger(__name__)
AGAIN = Backoff(first_s=60.0, cap_s=3600.0)
LIMIT_S = 120.0  # a process that takes longer hangs


class Renewal:
    """The one renewal of this device.

    Args:
        layout: its files.
        chance: uniform in [0, 1), so that a fleet that enrolled at once does not renew at once.
    """

    def __init__(self, layout: Layout, *, chance: Callable[[], float]) -> None:
        self._layout, self._chance = layout, chance
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._kill_at_s = self._not_before_s = 0.0
        self._renew_at: float | None = None
        self._read()

    def tick(self, moment: Moment) -> None:
        """Start it when it is time; take notice of its end."""
        if self._process is not None:
            self._look_at(self._process, moment)
        elif self._renew_at is not None and moment.unix_s >= self._renew_at and moment.now_s >= self._not_before_s:
            command = [*own_program("edge_agent.enrolment"), str(self._layout.root)]
            self._process = subprocess.Popen(  # noqa: S603  our own module, no shell
                command,
                stdin=subprocess.DEVNULL,
                env=environment(self._layout.bytecode_dir),
                process_group=0,
            )
            self._kill_at_s = moment.now_s + LIMIT_S

    def close(self) -> None:
        """End it; after the next start it begins again where it was."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _look_at(self, process: subprocess.Popen[bytes], moment: Moment) -> None:
        code = process.poll()
        if code is None:
            if moment.now_s >= self._kill_at_s:
                process.kill()
            return
        self._process = None
        self._failures = 0 if code == 0 else self._failures + 1
        if self._failures:
            self._not_before_s = moment.now_s + AGAIN.delay_s(self._failures, self._chance())
            log.warning("renewing the certificate failed (%s), trying again later", code)
        self._read()

    def _read(self) -> None:
        try:
            identity = identities.load(self._layout)
        except NotEnrolledError:  # damaged meanwhile; what runs goes on, and the next start says so
            identity = None
        held = None if identity is None else identity.credential
        self._renew_at = (
            None if held is None else held.renew_at + self._chance() * 0.1 * (held.expires_at - held.renew_at)
        )
