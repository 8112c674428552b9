"""Processes full of simulated devices, and what the benchmark hears of them."""

from __future__ import annotations

import logging
import multiprocessing
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.simulator.device import Fault, SimulatedDevice, Times, sketches
from benchmarks.simulator.loop import Loop
from edge_agent.link.mqtt import parse_url
from edge_agent.settings import AgentSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

TELL_EVERY_S = 0.5
FAULTS = {Fault.LINK: 0.02, Fault.TRANSFER: 0.01, Fault.REBOOT: 0.01, Fault.SELF_TEST: 0.01}  # 5 % in all


@dataclass(frozen=True)
class Plan:
    """What one process simulates."""

    mqtt_url: str
    keys: Mapping[str, str]
    """By device id."""
    connects_per_s: float
    seed: int = 0
    faulty: bool = True


@dataclass(frozen=True)
class Seen:
    """Counts of a process at a moment."""

    connected: int = 0
    ever_connected: int = 0
    notified: int = 0
    ended: int = 0
    reports: int = 0
    unacknowledged: int = 0
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
                raise RuntimeError("a process of simulated devices has ended")
        return Seen(*(sum(getattr(one, name) for one in self._seen) for name in Seen.__dataclass_fields__))

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
    for number, (device_id, key) in enumerate(plan.keys.items()):
        device = SimulatedDevice(
            device_id,
            key,
            loop=loop,
            address=address,
            settings=settings,
            latency=rng.choice(latencies),
            chance=random.Random(f"{plan.seed}:{device_id}"),  # noqa: S311
            fault=fault_of(rng) if plan.faulty else None,
        )
        devices.append(device)
        loop.at(time.monotonic() + number / plan.connects_per_s, device.start)
    tell_at_s = 0.0
    while not (pipe.poll() and pipe.recv() == "stop"):
        end_s = time.monotonic() + TELL_EVERY_S / 5
        while time.monotonic() < end_s:
            loop.turn()
        if time.monotonic() >= tell_at_s:
            tell_at_s = time.monotonic() + TELL_EVERY_S
            pipe.send(_seen(devices))
    pipe.send({device.device_id: device.times for device in devices})


def _seen(devices: list[SimulatedDevice]) -> Seen:
    times = [device.times for device in devices]
    return Seen(
        connected=sum(device.connected for device in devices),
        ever_connected=sum(one.connected is not None for one in times),
        notified=sum(one.notified is not None for one in times),
        ended=sum(one.ended is not None for one in times),
        reports=sum(device.spool.taken for device in devices),
        unacknowledged=sum(device.spool.count for device in devices),
        cpu_s=time.process_time(),
    )
