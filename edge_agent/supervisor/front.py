"""The front process as the supervisor sees it: started when models begin to share the port, released when one stays."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.runner.control import FROM_RUNNER, Drain, FromRunner, Routes, Serve, Serving
from edge_agent.supervisor.child import STOP_PATIENCE_S, Child
from edge_agent.supervisor.programs import own_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge_agent.settings import AgentSettings

log = logging.getLogger(__name__)
RETRY_S = 1.0  # after one that ended or could not be started


class Front:
    """At most one front that accepts, and those that still answer whom they have.

    Args:
        settings: its command, and how long to wait for what.
        environment: of the process.
        watch: called with a child's control socket and a callback when it is started.
        unwatch: called with the control socket of one that has ended.
        on_serving: called when it accepts.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        environment: Mapping[str, str],
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        on_serving: Callable[[], None],
    ) -> None:
        self._settings, self._environment = settings, environment
        self._watch, self._unwatch, self._on_serving = watch, unwatch, on_serving
        self._child: Child | None = None
        self._leaving: list[Child] = []  # they answer whom they have, and accept nobody any more
        self._retry_at_s = 0.0
        self.serves = False

    @property
    def pid(self) -> int | None:
        """Of the one that accepts, or will."""
        return None if self._child is None else self._child.process.pid

    @property
    def children(self) -> list[Child]:
        """Every living front."""
        return [*([] if self._child is None else [self._child]), *self._leaving]

    def is_due(self, now_s: float) -> bool:
        """Whether there is none, and one may be started."""
        return self._child is None and now_s >= self._retry_at_s

    def start(self, port: int, sockets: Mapping[str, Path]) -> None:
        """Start one, unless there is one.

        Args:
            port: the descriptor to accept on.
            sockets: where each model's runner answers.
        """
        if self._child is not None:
            return
        command = self._settings.front_command or own_program("edge_agent.front")
        try:
            child = Child(command, descriptors=[port], environment=self._environment, now_s=time.monotonic())
        except OSError as exc:
            log.warning("the front process can't be started: %s", exc)
            self._retry_at_s = time.monotonic() + RETRY_S
            return
        self._child = child
        self._watch(child.control.fileno(), lambda: self._readable(child))
        child.send(Routes(sockets=dict(sockets)))
        child.send(Serve(descriptors=(port,)))

    def route(self, sockets: Mapping[str, Path]) -> None:
        """Tell where each model's runner answers now; those that leave still forward."""
        for child in self.children:
            child.send(Routes(sockets=dict(sockets)))

    def release(self) -> None:
        """Let it leave. If several models come back meanwhile they get another: this one accepts no more."""
        child, self._child, self.serves = self._child, None, False
        if child is None:
            return
        self._leaving.append(child)
        child.send(Drain(deadline_s=self._settings.drain_s))
        child.kill_at_s = time.monotonic() + self._settings.drain_s + STOP_PATIENCE_S

    def check(self, now_s: float) -> None:
        """End one that is silent, and those whose time to leave is over."""
        for leaving in self._leaving:
            if leaving.kill_at_s is not None and now_s >= leaving.kill_at_s:
                leaving.kill()
        if self._child is not None and now_s - self._child.heard_s > self._settings.runner_silence_s:
            self._child.kill()

    def forget(self) -> None:
        """All have ended."""
        self._child, self.serves = None, False
        self._leaving.clear()

    def _readable(self, child: Child) -> None:
        messages: list[FromRunner] = []
        with contextlib.suppress(ValueError, ValidationError):
            messages = child.receive(FROM_RUNNER, now_s=time.monotonic())
        told = any(isinstance(message, Serving) for message in messages)
        if told and child is self._child and not self.serves:
            self.serves = True
            self._on_serving()
        if child.ended:
            self._unwatch(child.control.fileno())
            self._gone(child, child.reap())

    def _gone(self, child: Child, detail: str) -> None:
        if child is not self._child:
            self._leaving.remove(child)
            return
        self._child, self.serves = None, False
        self._retry_at_s = time.monotonic() + RETRY_S
        log.warning("the front process ended (%s)", detail)
