"""The supervisor put together: one worker that owns all state, drives the core and carries its actions out."""

from __future__ import annotations

import contextlib
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
from edge_agent.layout import Layout
from edge_agent.link.asks import Asks
from edge_agent.link.connection import Connection
from edge_agent.link.inbox import Inbox
from edge_agent.link.mqtt import MqttLink, parse_url
from edge_agent.pointer import ActivePointer
from edge_agent.protocol.states import Reason
from edge_agent.settings import AgentSettings, Transport, parse_listen
from edge_agent.storage.store import StateStore
from edge_agent.storage.variants import VariantFolders
from edge_agent.supervisor.complaints import Complaints
from edge_agent.supervisor.control import ControlServer
from edge_agent.supervisor.incoming import Incoming
from edge_agent.supervisor.listeners import Listeners, listen_unix
from edge_agent.supervisor.memory import remember
from edge_agent.supervisor.runners import Runners
from edge_agent.telemetry import board
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.windows import Windows
from edge_agent.transfer.blocks import DiskFullError
from edge_agent.transfer.manifests import ManifestFetches
from edge_agent.transfer.transfers import Transfers
from edge_agent.transfer.unpacking import Unpackings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edge_agent.link.identity import Identity
    from edge_agent.protocol.messages import TelemetryReport
    from edge_agent.protocol.profile import RuntimeName

log = logging.getLogger(__name__)
TICK_S = 1.0
BUSY_TICK_S = 0.1
GOODBYE_S = 2.0


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
        self._chance = chance = random.Random().random  # noqa: S311  jitter, not a secret
        self._started_s = time.monotonic()
        self._stopping = False
        self._events: list[ev.Event] = []
        self._selector = selectors.DefaultSelector()
        self._inbox = Inbox()
        self._complaints = Complaints()
        self._listeners = Listeners(layout, parse_listen(settings.listen))
        self._store = StateStore(layout.state_db)
        self._spool = Spool(
            layout.spool_db, limit_bytes=settings.spool_limit_bytes, limit_age_s=settings.spool_limit_age_s
        )
        self._windows = Windows(layout.journal_dir, self._spool)
        self._folders = VariantFolders(layout)
        self._link = MqttLink(
            parse_url(identity.mqtt_url),
            device_id=identity.device_id,
            key=identity.key,
            keepalive_s=settings.keepalive_s,
            session_expiry_s=settings.session_expiry_s,
            inbox=self._inbox,
        )
        self._asks = Asks(self._link, identity.device_id)
        self._connection = Connection(
            settings,
            device_id=identity.device_id,
            link=self._link,
            asks=self._asks,
            store=self._store,
            spool=self._spool,
            runtimes=runtimes or {},
            chance=chance,
        )
        over_https = settings.transport is Transport.HTTPS
        self._manifests = ManifestFetches(
            folders=self._folders,
            asks=self._asks,
            identity=identity,
            inbox=self._inbox,
            over_https=over_https,
            answer_s=settings.answer_s,
            chance=chance,
        )
        self._transfers = Transfers(
            settings,
            identity=identity,
            link=self._link,
            asks=self._asks,
            inbox=self._inbox,
            over_https=over_https,
            chance=chance,
        )
        self._unpackings = Unpackings(watch=self._watch, unwatch=self._unwatch, deliver=self._events.append)
        self._runners = Runners(
            settings,
            layout=layout,
            folders=self._folders,
            listeners=self._listeners,
            watch=self._watch,
            unwatch=self._unwatch,
            deliver=self._events.append,
            on_window=self._windows.take,
        )
        self._budget_bytes = self._storage_budget()
        rules = Rules(
            storage_budget_bytes=self._budget_bytes,
            runtimes=None if runtimes is None else frozenset(runtimes),
            retry=Backoff(settings.retry_first_s, 600.0),
            restart=Backoff(settings.restart_first_s, 30.0),
        )
        installed = self._folders.installed()
        snapshot = remember(self._store, self._folders, installed=installed)
        self._core = DeviceCore(snapshot, installed=installed, rules=rules, chance=chance)
        self._incoming = Incoming(
            identity.device_id,
            core=self._core,
            asks=self._asks,
            connection=self._connection,
            manifests=self._manifests,
            transfers=self._transfers,
            complaints=self._complaints,
            deliver=self._events.append,
        )
        self._control = ControlServer(layout.control_socket, self.describe)
        self._reports = listen_unix(layout.report_socket, kind=socket.SOCK_DGRAM)
        self._reports.setblocking(False)

    def run(self) -> int:
        """Work until a signal says to stop; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.stop())
        self._watch(self._inbox.fileno(), self._read_inbox)
        self._watch(self._control.listener.fileno(), self._control.answer)
        self._watch(self._reports.fileno(), self._read_reports)
        self._link.start()
        self._folders.unpoint_stale(self._core.active_models())
        self._carry_out(self._core.start(self._moment()))
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
        """Everything that is known, for `edge-agent status`."""
        accepted = self._core.accepted
        statuses = self._core.statuses(self._transfers.progress())
        return {
            "device_id": self._identity.device_id,
            "profile": self._identity.profile,
            "registry_url": self._identity.registry_url,
            "agent_version": __version__,
            "data_dir": str(self._layout.root),
            "uptime_s": time.monotonic() - self._started_s,
            "connected": self._connection.connected,
            "session_counter": self._connection.session_counter,
            "mqtt_url": self._identity.mqtt_url,
            "transport": self._settings.transport.value,
            "listen": self._listeners.address,
            "model_sockets": {m: str(self._layout.model_socket(m)) for m in self._core.model_runners()},
            "desired": {"epoch": accepted.epoch, "generation": accepted.generation, "wanted": list(accepted.wanted)},
            "deployments": [status.model_dump(mode="json", exclude_none=True) for status in statuses],
            "spool": {
                "reports": self._spool.count,
                "size_bytes": self._spool.size_bytes,
                "dropped": self._spool.dropped,
            },
            "storage": {"budget_bytes": self._budget_bytes, "free_bytes": self._folders.free_bytes()},
            "ignored_desired": self._core.ignored_desired,
            "wrong_blocks": self._transfers.wrong_blocks,
            "complaints": dict(self._complaints.counts),
            "pids": self._runners.pids,
        }

    def _turn(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            callback: Callable[[], None] = key.data
            callback()
        moment = self._moment()
        self._connection.tick(moment)
        self._manifests.tick(moment.now_s)
        self._events += self._transfers.tick(moment.now_s)
        self._runners.check(moment.now_s)
        due_s = self._core.next_due_s
        if due_s is not None and moment.now_s >= due_s:
            self._events.append(ev.Tick())
        self._handle_events()
        self._keep_windows(moment)
        self._connection.ask_desired(self._core.accepted, moment)
        self._say_status(moment)
        self._connection.send_telemetry(moment)

    def _handle_events(self) -> None:
        while self._events:  # carrying out an action may bring the next event
            self._carry_out(self._core.handle(self._events.pop(0), self._moment()))

    def _carry_out(self, actions: list[ev.Action]) -> None:
        for action in actions:
            match action:
                case ev.Persist():
                    self._store.persist(action)
                case ev.Report():
                    self._connection.changed(self._moment())
                case ev.CollectGarbage():
                    self._folders.collect(keep_manifests=action.keep_manifests, keep_objects=action.keep_objects)
                case ev.FetchManifest():
                    event = self._manifests.fetch(action.manifest_sha256, now_s=time.monotonic())
                    if event is not None:
                        self._events.append(event)
                case ev.StartTransfer():
                    self._start_transfer(action)
                case ev.CancelTransfer():
                    self._transfers.cancel(action.object_sha256)
                case ev.Unpack():
                    self._unpack(action)
                case _:
                    self._carry_out_runner(action)

    def _carry_out_runner(
        self, action: ev.StartRunner | ev.StopRunner | ev.Activate | ev.Deactivate | ev.SetWindow
    ) -> None:
        match action:
            case ev.StartRunner():
                self._runners.start(action)
            case ev.StopRunner():
                self._runners.stop(action.deployment_id, action.after)
            case ev.Activate():
                with self._spared("no in-process model can follow"):
                    self._folders.point(self._pointer(action))
                self._runners.activate(action)
            case ev.Deactivate():
                with self._spared("the next start removes the pointer"):
                    self._folders.unpoint(action.model)
                self._runners.deactivate(action.model)
            case ev.SetWindow():
                self._runners.set_window(action.window_s)

    def _pointer(self, action: ev.Activate) -> ActivePointer:
        manifest = action.manifest
        return ActivePointer(
            deployment_id=action.deployment_id,
            model=manifest.model,
            version=manifest.version,
            variant_id=manifest.variant_id,
            variant_dir=str(self._layout.variant_dir(action.manifest_sha256).relative_to(self._layout.root)),
            model_sha256=manifest.model_file.sha256,
            window_s=self._core.accepted.telemetry_window_s,
        )

    def _start_transfer(self, action: ev.StartTransfer) -> None:
        manifest, sha256 = action.manifest, action.manifest.object.sha256
        with self._spared("after a restart the manifest is asked for again"):
            if (text := self._manifests.take_text(action.manifest_sha256)) is not None:
                self._folders.keep_manifest(action.manifest_sha256, manifest, text)
        needed = manifest.payload_bytes + manifest.object.size_bytes
        used = self._folders.used_bytes(except_object=sha256)
        if used + needed > self._budget_bytes:
            detail = f"{used} of {self._budget_bytes} bytes are in use, and it needs {needed}"
            self._events.append(ev.TransferFailed(sha256, Reason.STORAGE_BUDGET, detail))
            return
        try:
            folder = self._layout.transfer_dir(sha256)
            self._transfers.start(folder, action.manifest_sha256, manifest, now_s=time.monotonic())
        except DiskFullError as exc:
            self._folders.drop_transfer(sha256)
            self._events.append(ev.TransferFailed(sha256, Reason.DISK_FULL, str(exc)))
        except OSError as exc:
            self._events.append(ev.TransferFailed(sha256, Reason.INTERNAL, f"the disk failed: {exc.strerror}"))

    @contextlib.contextmanager
    def _spared(self, consequence: str) -> Iterator[None]:
        """A disk that is full or has failed must not take down what runs."""
        try:
            yield
        except OSError as exc:
            self._complaints.add("disk", f"the disk takes nothing ({exc.strerror}): {consequence}")

    def _unpack(self, action: ev.Unpack) -> None:
        folder = self._layout.transfer_dir(action.manifest.object.sha256)
        self._unpackings.start(
            action.manifest_sha256,
            object_path=folder / "data",
            manifest_path=folder / f"{action.manifest_sha256}.json",
            target=self._layout.variant_dir(action.manifest_sha256),
        )

    def _say_status(self, moment: ev.Moment) -> None:
        self._connection.say_status(
            self._core.accepted,
            lambda: self._core.statuses(self._transfers.progress()),
            moment=moment,
            storage_free_bytes=self._folders.free_bytes,
            busy=self._transfers.busy,
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
        wait_s = BUSY_TICK_S if self._transfers.busy else TICK_S
        due_s = self._core.next_due_s
        return wait_s if due_s is None else max(0.0, min(wait_s, due_s - time.monotonic()))

    def _storage_budget(self) -> int:
        configured = self._settings.storage_budget_bytes or self._identity.storage_bytes
        return configured or (self._folders.free_bytes() + self._folders.used_bytes()) // 2

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
        self._connection.send_telemetry(moment)
        self._connection.status_now(moment)
        statuses = tuple(s.model_copy(update={"serving": False}) for s in self._core.statuses())
        self._connection.say_status(
            self._core.accepted,
            lambda: statuses,
            moment=moment,
            storage_free_bytes=self._folders.free_bytes,
            busy=False,
        )
        self._connection.say_goodbye(moment)
        self._inbox.refuse()
        self._link.close(timeout_s=GOODBYE_S)
        self._transfers.close()
        self._unpackings.close()
        self._listeners.close()
        self._reports.close()
        self._layout.report_socket.unlink(missing_ok=True)
        self._spool.close()
        self._store.close()
        self._selector.close()
