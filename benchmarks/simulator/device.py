"""One simulated device: the agent's core, its conversation, and ports whose outcomes are drawn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.simulator.link import SimulatedLink
from benchmarks.simulator.memory import Memory, MemorySpool
from edge_agent.backoff import Backoff
from edge_agent.deployments import events as ev
from edge_agent.deployments.acquire import Rules
from edge_agent.deployments.core import DeviceCore
from edge_agent.link.asks import Asks
from edge_agent.link.connection import Connection
from edge_agent.link.mqtt import Connected, Disconnected, Received
from edge_agent.protocol import topics
from edge_agent.protocol.messages import (
    Ack,
    Ask,
    AskKind,
    Desired,
    LatencySketch,
    Reply,
    ReplyStatus,
    SelfTestReport,
    TelemetryReport,
    decode,
)
from edge_agent.protocol.sketch import new_sketch, to_wire
from edge_agent.protocol.states import DeploymentState, Reason
from edge_agent.protocol.topics import DeviceTopic
from edge_agent.transfer.manifests import read_manifest

if TYPE_CHECKING:
    import random

    from benchmarks.simulator.credentials import Credential
    from benchmarks.simulator.loop import Loop
    from edge_agent.link.mqtt import BrokerAddress
    from edge_agent.settings import AgentSettings

TICK_S = 1.0  # as the supervisor's
TRANSFER_S, UNPACK_S, SELF_TEST_S, SWAP_S = 2.0, 0.3, 0.5, 0.05  # medians
SPREAD = 0.3  # sigma of their logarithms
REBOOT_S = 5.0
INFERENCES = 200  # a window
ENDED = frozenset({DeploymentState.ACTIVE, DeploymentState.REJECTED, DeploymentState.ROLLED_BACK})


class Fault(StrEnum):
    """What goes wrong with a device, once."""

    LINK = "link"  # its connection is cut without a word, in the middle of the transfer
    TRANSFER = "transfer"  # its first transfer fails
    REBOOT = "reboot"  # it is switched off during the self-test, and comes back
    SELF_TEST = "self_test"  # the variant gives other outputs on it: it refuses for good


@dataclass(slots=True)
class Times:
    """When a new version was seen and had come to its end, in seconds since 1970; None: not yet."""

    notified: float | None = None
    ended: float | None = None
    state: str = ""


def sketches(rng: random.Random, count: int = 16) -> list[LatencySketch]:
    """Latencies of windows: log-normal, 0.3 between devices and 0.2 within."""
    made = []
    for _ in range(count):
        sketch, median = new_sketch(), 10.0 * rng.lognormvariate(0.0, 0.3)
        for _ in range(INFERENCES):
            sketch.add(median * rng.lognormvariate(0.0, 0.2))
        made.append(to_wire(sketch))
    return made


class SimulatedDevice:
    """One device of a fleet; all of a process share a loop."""

    def __init__(
        self,
        device_id: str,
        credential: Credential,
        *,
        loop: Loop,
        address: BrokerAddress,
        settings: AgentSettings,
        latency: LatencySketch,
        chance: random.Random,
        fault: Fault | None = None,
    ) -> None:
        self.device_id, self.times = device_id, Times()
        self._loop, self._settings, self._latency = loop, settings, latency
        self._chance, self._fault = chance, fault
        self._memory, self.spool = Memory(), MemorySpool()
        self._reports_before = 0
        self._life = 0  # what was begun before a reboot is not heard of after it
        self._transfers: dict[str, float] = {}  # by object: when it will be complete
        self._answers: dict[str, int] = {}  # by deployment that serves: its inferences
        self._on = True
        self._link = SimulatedLink(
            loop,
            address,
            device_id=device_id,
            tls=credential.context,
            settings=settings,
            put=lambda item: loop.soon(self._got(item)),
        )
        self._switch_on()

    def start(self) -> None:
        """Begin to live: connect, and look once a second."""
        self._loop.at(time.monotonic() + TICK_S * self._chance.random(), self._tick)
        self._handle(self.core.start(self._moment()))
        self._turn()

    @property
    def connected(self) -> bool:
        """Whether the broker has it."""
        return self._on and self.connection.connected

    def forget(self) -> None:
        """Look anew for a new version, and count the reports of until now apart."""
        self.times, self._reports_before = Times(), self.spool.taken

    @property
    def left_over(self) -> int:
        """Reports of before the last `forget` that the registry has not acknowledged."""
        return self.spool.waiting_up_to(self._reports_before)

    def _switch_on(self) -> None:
        self.core = DeviceCore(
            self._memory.snapshot(),
            installed=self._memory.installed,
            rules=Rules(retry=Backoff(self._settings.retry_first_s, 600.0)),
            chance=self._chance.random,
        )
        self._asks = Asks(self._link, self.device_id)
        self._manifests: set[str] = set()
        self.connection = Connection(
            self._settings,
            device_id=self.device_id,
            link=self._link,
            asks=self._asks,
            store=self._memory,
            spool=self.spool,
            runtimes={},
            chance=self._chance.random,
        )

    def _got(self, item: object) -> partial[None]:
        return partial(self._take, item)

    def _take(self, item: object) -> None:
        if not self._on:
            return
        moment = self._moment()
        match item:
            case Received():
                self._received(item, moment)
            case Connected():
                self.connection.came_up(item, moment)
                for sha256 in self._manifests:
                    self._asks.send(Ask(kind=AskKind.MANIFEST, sha256=sha256))
            case Disconnected():
                self.connection.went_down(item, moment)
        self._turn()

    def _received(self, message: Received, moment: ev.Moment) -> None:
        parsed = topics.parse(message.topic)
        if not isinstance(parsed, topics.ParsedDeviceTopic) or not message.payload:
            return
        match parsed.kind:
            case DeviceTopic.DESIRED:
                self._desired(decode(Desired, message.payload), moment)
            case DeviceTopic.ACK:
                self.connection.acknowledged(decode(Ack, message.payload), moment)
            case DeviceTopic.REPLY:
                self._reply(decode(Reply, message.payload), message.correlation, moment)
            case _:
                pass

    def _desired(self, desired: Desired, moment: ev.Moment) -> None:
        self.connection.heard(moment)
        if any(not self.core.knows(wanted.deployment_id) for wanted in desired.deployments):
            self.times.notified = self.times.notified or moment.unix_s
        self._event(ev.DesiredReceived(desired))

    def _reply(self, reply: Reply, correlation: bytes | None, moment: ev.Moment) -> None:
        ask = self._asks.answered(correlation)
        if ask is None:
            return
        if ask.kind is AskKind.DESIRED and reply.desired is not None:
            self._desired(reply.desired, moment)
        elif ask.kind is AskKind.MANIFEST and ask.sha256 in self._manifests:
            if reply.manifest is not None:
                self._manifests.discard(ask.sha256)
                self._event(read_manifest(ask.sha256, reply.manifest.encode()))
            elif reply.status in (ReplyStatus.SLOW_DOWN, ReplyStatus.UNAVAILABLE):
                again = partial(self._ask_manifest, ask.sha256, self._life)
                self._loop.at(moment.now_s + max(1.0, reply.retry_after_s) * (1 + self._chance.random()), again)

    def _ask_manifest(self, sha256: str, life: int) -> None:
        if life == self._life and sha256 in self._manifests:
            self._asks.send(Ask(kind=AskKind.MANIFEST, sha256=sha256))

    def _tick(self) -> None:
        self._loop.at(time.monotonic() + TICK_S, self._tick)
        if self._on:
            self._link.keep_alive()
            self._turn()

    def _turn(self) -> None:
        moment = self._moment()
        self.connection.tick(moment)
        due_s = self.core.next_due_s
        if due_s is not None and moment.now_s >= due_s:
            self._event(ev.Tick())
        self.connection.ask_desired(self.core.accepted, moment)
        self.connection.say_status(
            self.core.accepted,
            self.core.statuses,
            moment=moment,
            storage_free_bytes=lambda: 1 << 30,
            busy=bool(self._transfers),
        )
        self.connection.send_telemetry(moment)

    def _event(self, event: ev.Event) -> None:
        self._handle(self.core.handle(event, self._moment()))
        if self.times.notified is None or self.times.ended is not None:
            return
        for status in self.core.statuses():
            wanted = status.deployment_id in self.core.accepted.wanted
            if wanted and status.state in ENDED and (status.serving or status.state is not DeploymentState.ACTIVE):
                self.times.ended, self.times.state = time.time(), status.state

    def _handle(self, actions: list[ev.Action]) -> None:
        moment = self._moment()
        for action in actions:
            match action:
                case ev.Persist():
                    self._memory.persist(action)
                case ev.Report():
                    self.connection.changed(moment)
                case ev.FetchManifest():
                    self._manifests.add(action.manifest_sha256)
                    self._asks.send(Ask(kind=AskKind.MANIFEST, sha256=action.manifest_sha256))
                case ev.StartTransfer():
                    self._begin_transfer(action)
                case ev.CancelTransfer():
                    self._transfers.pop(action.object_sha256, None)
                case ev.Unpack():
                    self._later(UNPACK_S, ev.Unpacked(action.manifest_sha256))
                    self._memory.installed[action.manifest_sha256] = action.manifest
                case _:
                    self._to_runner(action)

    def _begin_transfer(self, action: ev.StartTransfer) -> None:
        descriptor = action.object
        took_s = self._drawn(TRANSFER_S)
        if self._had(Fault.TRANSFER):
            self._later(took_s, ev.TransferFailed(descriptor.sha256, Reason.TRANSFER_FAILED, "simulated"))
            return
        if self._had(Fault.LINK):
            self._loop.at(time.monotonic() + took_s / 2, self._link.cut)
        self._transfers[descriptor.sha256] = time.monotonic() + took_s
        self._later(took_s, ev.TransferDone(descriptor.sha256, descriptor.size_bytes))

    def _to_runner(self, action: ev.Action) -> None:
        match action:
            case ev.StartRunner(proving=True) if self._had(Fault.SELF_TEST):
                refused = ev.RunnerRefused(action.deployment_id, Reason.GOLDEN_MISMATCH, "simulated: other outputs")
                self._later(SELF_TEST_S, refused)
            case ev.StartRunner(proving=True) if self._had(Fault.REBOOT):
                self._loop.at(time.monotonic() + SELF_TEST_S / 2, self._switch_off)
            case ev.StartRunner():
                manifest = action.manifest
                report = SelfTestReport(
                    passed=True, runtime=manifest.runtime, delegate=manifest.delegate, p50_ms=10.0, p95_ms=14.0, runs=20
                )
                self._later(SELF_TEST_S, ev.RunnerProven(action.deployment_id, report))
            case ev.Activate():
                self._later(SWAP_S, ev.RunnerServing(action.deployment_id))
                self._answers[action.deployment_id] = 0
                self._loop.at(self._window_end_s(), partial(self._window, action, self._life))
                if action.retire is not None:
                    self._later(2 * SWAP_S, ev.RunnerExited(action.retire))
            case ev.StopRunner():
                self._later(SWAP_S, ev.RunnerExited(action.deployment_id))
            case _:
                pass

    def _window(self, action: ev.Activate, life: int) -> None:
        """A window of telemetry is over, as long as this deployment answers."""
        manifest, deployment_id = action.manifest, action.deployment_id
        if life != self._life or self.core.model_runners().get(manifest.model) != deployment_id:
            return
        window_s = self.core.accepted.telemetry_window_s
        report = TelemetryReport(
            spool_id=self.spool.spool_id,
            sequence=0,
            model=manifest.model,
            version=manifest.version,
            variant_id=manifest.variant_id,
            deployment_id=deployment_id,
            window_start=time.time() - window_s,
            window_s=window_s,
            requests=INFERENCES,
            inferences=INFERENCES,
            invoke=self._latency,
        )
        self.spool.add(report)
        self._answers[deployment_id] += INFERENCES
        self._event(ev.RunnerBeat(deployment_id, self._answers[deployment_id]))
        self._loop.at(time.monotonic() + window_s, partial(self._window, action, life))

    def _window_end_s(self) -> float:
        return time.monotonic() + self.core.accepted.telemetry_window_s * self._chance.random()

    def _later(self, median_s: float, event: ev.Event) -> None:
        def arrive(life: int = self._life) -> None:
            if life != self._life or (isinstance(event, ev.TransferDone) and not self._complete(event)):
                return
            self._event(event)
            self._turn()

        self._loop.at(time.monotonic() + self._drawn(median_s), arrive)

    def _complete(self, done: ev.TransferDone) -> bool:
        """Whether a transfer is; without a connection it is taken up again after a while."""
        if done.object_sha256 not in self._transfers:
            return False  # cancelled
        if not self.connected:
            self._later(TRANSFER_S / 2, done)
            return False
        del self._transfers[done.object_sha256]
        return True

    def _had(self, fault: Fault) -> bool:
        """Whether it is this device's fault's turn; each comes once."""
        if self._fault is not fault:
            return False
        self._fault = None
        return True

    def _switch_off(self) -> None:
        self._on, self._life = False, self._life + 1
        self._transfers.clear()
        self._link.cut()
        self._loop.at(time.monotonic() + REBOOT_S, self._come_back)

    def _come_back(self) -> None:
        self._on = True
        self._switch_on()
        self._handle(self.core.start(self._moment()))
        self._turn()

    def _drawn(self, median_s: float) -> float:
        return median_s * self._chance.lognormvariate(0.0, SPREAD)

    def _moment(self) -> ev.Moment:
        return ev.Moment(now_s=time.monotonic(), unix_s=time.time())
