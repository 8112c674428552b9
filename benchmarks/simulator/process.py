"""Processes full of simulated devices, and what the benchmark hears of them."""

from __future__ import annotations

import logging
import multiprocessing
import random
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.simulator.device import Fault, SimulatedDevice, sketches
from benchmarks.simulator.loop import Loop
from edge_agent.link.mqtt import parse_url
from edge_agent.settings import AgentSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection

    from benchmarks.simulator.credentials import Credential
    from benchmarks.simulator.device import Times

CONNECTS_PER_S = 500.0
DESCRIPTORS_BESIDE = 500  # what a process opens besides the devices' connections
TELL_EVERY_S = 0.5
FAULTS = {Fault.LINK: 0.02, Fault.TRANSFER: 0.01, Fault.REBOOT: 0.01, Fault.SELF_TEST: 0.01}  # 5 % in all


class SimulationError(Exception):
    """The simulated devices do not come so far; one sentence says how far."""


@dataclass(frozen=True)
class Plan:
    """What one process simulates."""

    mqtt_url: str
    credentials: Mapping[str, Credential]
    """By device id."""
    connects_per_s: float
    seed: int = 0
    faulty: bool = True


@dataclass(frozen=True)
class Seen:
    """Counts of a process at a moment."""

    connected: int = 0
    notified: int = 0
    ended: int = 0
    reports: int = 0
    left_over: int = 0
    """Reports of before the last `forget` that the registry has not acknowledged."""
    cpu_s: float = 0.0


@dataclass
class Simulation:
    """The simulated devices, in a few processes."""

    plans: list[Plan]
    _children: list[tuple[multiprocessing.process.BaseProcess, Connection]] = field(default_factory=list)
    _seen: list[Seen] = field(default_factory=list)

    def start(self) -> None:
        """Let them connect."""
        context = multiprocessing.get_context("spawn")
        for plan in self.plans:
            ours, theirs = context.Pipe()
            process = context.Process(target=_simulate, args=(plan, theirs), daemon=True)
            process.start()
            self._children.append((process, ours))
            self._seen.append(Seen())

    def look(self) -> Seen:
        """The latest counts, over all processes."""
        for number, (process, pipe) in enumerate(self._children):
            while pipe.poll():
                self._seen[number] = pipe.recv()
            if not process.is_alive():
                raise SimulationError("a process of simulated devices has ended")
        return Seen(*(sum(getattr(one, name) for one in self._seen) for name in Seen.__dataclass_fields__))

    def wait(self, condition: Callable[[Seen], bool], what: str, *, timeout_s: float) -> None:
        """Wait until they have come so far.

        Raises:
            SimulationError: not in time.
        """
        give_up_s = time.monotonic() + timeout_s
        while not condition(seen := self.look()):
            if time.monotonic() > give_up_s:
                raise SimulationError(f"after {timeout_s:.0f} s still not: {what} ({seen})")
            time.sleep(0.1)

    def forget(self) -> None:
        """Count anew who is notified and at an end, from now on."""
        for number, (_, pipe) in enumerate(self._children):
            pipe.send("forget")
            while pipe.recv() != "forgotten":
                pass
            self._seen[number] = Seen()

    def stop(self) -> dict[str, Times]:
        """End them; when each device saw what."""
        times: dict[str, Times] = {}
        for process, pipe in self._children:
            pipe.send("stop")
            while not isinstance(told := pipe.recv(), dict):
                pass
            times |= told
            process.join(30)
        self._children.clear()
        return times


def plans(credentials: Mapping[str, Credential], mqtt_url: str, *, processes: int, faulty: bool = True) -> list[Plan]:
    """Divide devices (what each shows, by its id) among processes."""
    names, each_s = list(credentials), CONNECTS_PER_S / processes
    shares = ({name: credentials[name] for name in names[number::processes]} for number in range(processes))
    return [Plan(mqtt_url, share, each_s, seed=number, faulty=faulty) for number, share in enumerate(shares)]


def allow_descriptors(devices: int) -> None:
    """Let this process and its children, the broker among them, open a connection for each device.

    Raises:
        SimulationError: the system does not allow that.
    """
    wanted = devices + DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        raise SimulationError(
            f"{wanted} open files are needed, and `ulimit -Hn` allows {hard}: raise it, or take fewer devices"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def fault_of(chance: random.Random) -> Fault | None:
    """What goes wrong with one device."""
    drawn = chance.random()
    for fault, share in FAULTS.items():
        if drawn < share:
            return fault
        drawn -= share
    return None


def _simulate(plan: Plan, pipe: Connection) -> None:
    logging.disable(logging.WARNING)  # a cut connection is no news here
    loop, settings = Loop(), AgentSettings(keepalive_s=300, will_delay_s=30)
    rng = random.Random(plan.seed)  # noqa: S311  a simulation
    latencies = sketches(rng)
    address = parse_url(plan.mqtt_url)
    devices = []
    for number, (device_id, credential) in enumerate(plan.credentials.items()):
        device = SimulatedDevice(
            device_id,
            credential,
            loop=loop,
            address=address,
            settings=settings,
            latency=rng.choice(latencies),
            chance=random.Random(f"{plan.seed}:{device_id}"),  # noqa: S311
            fault=fault_of(rng) if plan.faulty else None,
        )
        devices.append(device)
        loop.at(time.monotonic() + number / plan.connects_per_s, device.start)
    while (said := pipe.recv() if pipe.poll() else "") != "stop":
        if said == "forget":
            for device in devices:
                device.forget()
            pipe.send("forgotten")
        tell_at_s = time.monotonic() + TELL_EVERY_S
        while time.monotonic() < tell_at_s:
            loop.turn()
        pipe.send(_seen(devices))
    pipe.send({device.device_id: device.times for device in devices})


def _seen(devices: list[SimulatedDevice]) -> Seen:
    times = [device.times for device in devices]
    return Seen(
        connected=sum(device.connected for device in devices),
        notified=sum(one.notified is not None for one in times),
        ended=sum(one.ended is not None for one in times),
        reports=sum(device.spool.taken for device in devices),
        left_over=sum(device.left_over for device in devices),
        cpu_s=time.process_time(),
    )
