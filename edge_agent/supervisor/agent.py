"""The supervisor put together: one worker that owns all state, drives the core and carries its actions out."""

from __future__ import annotations

import dataclasses
import logging
import random
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING

from edge_agent import __version__
from edge_agent.backoff import Backoff
from edge_agent.deployments import events as ev
from edge_agent.deployments.acquire import Rules
from edge_agent.deployments.core import DeviceCore
from edge_agent.deployments.deferring import MOST_DEFERRALS
from edge_agent.deployments.records import Deferral
from edge_agent.layout import Layout
from edge_agent.link.inbox import Inbox
from edge_agent.protocol.states import Reason
from edge_agent.settings import AgentSettings, parse_listen
from edge_agent.storage.store import StateStore
from edge_agent.storage.variants import VariantFolders
from edge_agent.supervisor.actions import Actions
from edge_agent.supervisor.complaints import Complaints
from edge_agent.supervisor.control import ControlServer, DeferRequest, ReleaseRequest, Request, RequestRefusedError
from edge_agent.supervisor.history import History
from edge_agent.supervisor.incoming import Incoming
from edge_agent.supervisor.inquiries import Inquiries
from edge_agent.supervisor.line import Line
from edge_agent.supervisor.listeners import Listeners, listen_unix
from edge_agent.supervisor.memory import remember
from edge_agent.supervisor.renewal import Renewal
from edge_agent.supervisor.runners import Runners
from edge_agent.telemetry import board
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.windows import Windows
from edge_agent.transfer.unpacking import Unpackings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.link.identity import Identity
    from edge_agent.protocol.messages import TelemetryReport
    from edge_agent.protocol.profile import RuntimeName

log = logging.getLogger(__name__)
TICK_S = 1.0
BUSY_TICK_S = 0.1


class Agent:
    """One device's supervisor.

    Args:
        settings: how it runs.
        identity: who it is.
        runtimes: the inference runtimes of the runner's Python, with their versions; None: not known.
    """

    def __init__(
        self, settings: AgentSettings, identity: Identity, *, runtimes: Mapping[RuntimeName, str] | None
    ) -> None:
        self._settings, self._identity = settings, identity
        self._layout = layout = Layout(settings.data_dir)
        chance = random.Random().random  # noqa: S311  jitter, not a secret
        self._started_s = time.monotonic()
        self._stopping = False
        self._events: list[ev.Event] = []
        deliver = self._events.append
        self._selector = selectors.DefaultSelector()
        self._inbox = Inbox()
        self._complaints = Complaints()
        self._listeners = Listeners(layout, parse_listen(settings.listen))
        self._store = StateStore(layout.state_db)
        self._spool = Spool(
            layout.spool_db, limit_bytes=settings.spool_limit_bytes, limit_age_s=settings.spool_limit_age_s
        )
        self._windows = Windows(layout.journal_dir, self._spool)
        budget_bytes = settings.storage_budget_bytes or identity.storage_bytes
        self._folders = folders = VariantFolders(layout, budget_bytes=budget_bytes)
        self._line = Line(
            settings,
            identity,
            inbox=self._inbox,
            store=self._store,
            spool=self._spool,
            folders=folders,
            runtimes=runtimes or {},
            chance=chance,
        )
        self._unpackings = Unpackings(watch=self._watch, unwatch=self._unwatch, deliver=deliver)
        self._runners = Runners(
            settings,
            layout=layout,
            folders=folders,
            listeners=self._listeners,
            watch=self._watch,
            unwatch=self._unwatch,
            deliver=deliver,
            on_window=self._windows.take,
        )
        self._core = self._make_core(runtimes, chance)
        self._inquiries = Inquiries(
            settings, layout=layout, publish=self._line.say_answer, watch=self._watch, unwatch=self._unwatch
        )
        self._renewal = Renewal(layout, chance=chance)
        self._incoming = Incoming(
            identity.device_id,
            core=self._core,
            line=self._line,
            inquiries=self._inquiries,
            complaints=self._complaints,
            deliver=deliver,
        )
        self._actions = Actions(
            layout,
            store=self._store,
            folders=folders,
            line=self._line,
            unpackings=self._unpackings,
            runners=self._runners,
            complaints=self._complaints,
            deliver=deliver,
        )
        self._control = ControlServer(layout.control_socket, self._obey, watch=self._watch, unwatch=self._unwatch)
        self._reports = listen_unix(layout.report_socket, kind=socket.SOCK_DGRAM)
        self._reports.setblocking(False)

    def _make_core(self, runtimes: Mapping[RuntimeName, str] | None, chance: Callable[[], float]) -> DeviceCore:
        settings = self._settings
        rules = Rules(
            storage_budget_bytes=self._folders.budget_bytes,
            runtimes=None if runtimes is None else frozenset(runtimes),
            retry=Backoff(settings.retry_first_s, 600.0),
            restart=Backoff(settings.restart_first_s, 30.0),
        )
        installed = self._folders.installed()
        snapshot = remember(self._store, self._folders, installed=installed)
        self._history = History(snapshot.records)
        return DeviceCore(snapshot, installed=installed, rules=rules, chance=chance)

    def run(self) -> int:
        """Work until a signal says to stop; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.stop())
        self._watch(self._inbox.fileno(), self._read_inbox)
        self._watch(self._control.listener.fileno(), self._control.accept)
        self._watch(self._reports.fileno(), self._read_reports)
        self._line.start()
        self._folders.unpoint_stale(self._core.active_models())
        moment = self._moment()
        for action in self._core.start(moment):
            self._actions.carry_out(action, moment)
        log.info("device %s at %s", self._identity.device_id, self._listeners.address or "Unix sockets only")
        self._turn(0.0)  # nothing to wait for yet: connect at once
        while not self._stopping:
            self._turn(self._timeout_s())
        self._end()
        return 0

    def stop(self) -> None:
        """Leave the loop; for signal handlers."""
        self._stopping = True
        self._inbox.wake()

    def describe(self) -> dict[str, object]:
        """Everything that is known, for `edge-agent status` and `diagnose`; nothing secret."""
        accepted = self._core.accepted
        progress = self._line.transfers.progress()
        statuses = self._core.statuses(progress)
        return {
            "device_id": self._identity.device_id,
            "profile": self._identity.profile,
            "registry_url": self._identity.registry_url,
            "agent_version": __version__,
            "data_dir": str(self._layout.root),
            "uptime_s": time.monotonic() - self._started_s,
            "connected": self._line.connection.connected,
            "session_counter": self._line.connection.session_counter,
            "mqtt_url": self._identity.mqtt_url,
            "transport": self._settings.transport.value,
            "listen": self._listeners.address,
            "model_sockets": {m: str(self._layout.model_socket(m)) for m in self._core.model_runners()},
            "desired": {"epoch": accepted.epoch, "generation": accepted.generation, "wanted": list(accepted.wanted)},
            "deployments": [status.model_dump(mode="json", exclude_none=True) for status in statuses],
            "deferrals": [deferral.model_dump(mode="json") for deferral in self._core.deferrals],
            "spool": {
                "reports": self._spool.count,
                "size_bytes": self._spool.size_bytes,
                "dropped": self._spool.dropped,
            },
            "storage": {"budget_bytes": self._folders.budget_bytes, "free_bytes": self._folders.free_bytes()},
            "ignored_desired": self._core.ignored_desired,
            "wrong_blocks": self._line.transfers.wrong_blocks,
            "complaints": dict(self._complaints.counts),
            "pids": self._runners.pids,
            "rss_bytes": {name: board.rss_bytes(pid) for name, pid in self._runners.pids.items()},
            "settings": self._settings.model_dump(mode="json"),
            "transfers": {sha256: dataclasses.asdict(one) for sha256, one in progress.items()},
            "history": self._history.describe(),
        }

    def _obey(self, request: Request) -> Mapping[str, object]:
        """Answer on the control socket; what is granted is on disk by then."""
        match request:
            case DeferRequest():
                return self._defer(request)
            case ReleaseRequest():
                self._events.append(ev.DeferEnded(request.token))
                self._handle_events()
                return {}
            case _:
                return self.describe()

    def _defer(self, asked: DeferRequest) -> Mapping[str, object]:
        if asked.model is not None and asked.model not in self._core.active_models():
            raise RequestRefusedError(f"nothing answers for a model {asked.model} here: see edge-agent status")
        until = self._moment().unix_s + asked.for_s
        deferral = Deferral(token=asked.token, model=asked.model, for_s=asked.for_s, until=until, reason=asked.reason)
        self._events.append(ev.DeferAsked(deferral))
        self._handle_events()
        if self._core.deferral(asked.token) is None:
            raise RequestRefusedError(
                f"{MOST_DEFERRALS} deferrals hold already: end or renew one by its token (edge-agent status --json)"
            )
        waiting = [one.deployment_id for one in self._core.statuses() if one.reason is Reason.DEFERRED]
        return {"token": asked.token, "until": until, "waiting": waiting}

    def _turn(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            callback: Callable[[], None] = key.data
            callback()
        moment = self._moment()
        self._events += self._line.tick(moment)
        self._inquiries.tick(moment.now_s)
        self._renewal.tick(moment)
        self._runners.check(moment.now_s)
        due_s = self._core.next_due_s
        if due_s is not None and moment.now_s >= due_s:
            self._events.append(ev.Tick())
        self._handle_events()
        self._keep_windows(moment)
        self._line.connection.ask_desired(self._core.accepted, moment)
        self._say_status(moment)
        self._line.connection.send_telemetry(moment)

    def _handle_events(self) -> None:
        while self._events:  # carrying out an action may bring the next event
            moment, event = self._moment(), self._events.pop(0)
            self._incoming.remark(event)
            self._history.happened(event, moment.unix_s)
            for action in self._core.handle(event, moment):
                self._history.decided(action, moment.unix_s)
                self._actions.carry_out(action, moment)

    def _say_status(self, moment: ev.Moment) -> None:
        self._line.connection.say_status(
            self._core.accepted,
            lambda: self._core.statuses(self._line.transfers.progress()),
            moment=moment,
            storage_free_bytes=self._folders.free_bytes,
            busy=self._line.transfers.busy,
        )

    def _keep_windows(self, moment: ev.Moment) -> None:
        self._windows.look(moment.now_s)

        def fill(window: TelemetryReport) -> TelemetryReport:
            reading = board.read_board()
            return window.model_copy(update={"temperature_c": reading.temperature_c, "throttled": reading.throttled})

        self._windows.keep(fill, unix_s=moment.unix_s)

    def _read_inbox(self) -> None:
        for item in self._inbox.drain():
            self._incoming.take(item, self._moment())

    def _read_reports(self) -> None:
        self._windows.take_reports(self._incoming.take_reports(self._reports))

    def _moment(self) -> ev.Moment:
        available = board.memory_available_bytes()
        if self._settings.memory_budget_bytes is not None:
            used = sum(board.rss_bytes(pid) for pid in self._runners.pids.values())
            left = max(0, self._settings.memory_budget_bytes - used)
            available = left if available is None else min(available, left)
        return ev.Moment(now_s=time.monotonic(), unix_s=max(0.0, time.time()), memory_available_bytes=available)

    def _timeout_s(self) -> float:
        if self._events:
            return 0.0
        wait_s = BUSY_TICK_S if self._line.transfers.busy else TICK_S
        now_s = time.monotonic()
        due = (self._core.next_due_s, self._line.connection.due_s, self._inquiries.due_s)
        return max(0.0, min([wait_s, *(due_s - now_s for due_s in due if due_s is not None)]))

    def _watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def _unwatch(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def _end(self) -> None:
        """Stop the runners, say the last status, leave."""
        self._control.close()
        self._runners.close()
        moment = self._moment()
        self._keep_windows(moment)
        self._windows.close()
        self._line.connection.send_telemetry(moment)
        self._line.connection.status_now(moment)
        statuses = tuple(s.model_copy(update={"serving": False}) for s in self._core.statuses())
        self._line.connection.say_status(
            self._core.accepted,
            lambda: statuses,
            moment=moment,
            storage_free_bytes=self._folders.free_bytes,
            busy=False,
        )
        self._inbox.refuse()
        self._line.close(moment)
        self._inquiries.forget()
        self._renewal.close()
        self._unpackings.close()
        self._listeners.close()
        self._reports.close()
        self._layout.report_socket.unlink(missing_ok=True)
        self._spool.close()
        self._store.close()
        self._selector.close()
