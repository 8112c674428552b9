"""The broker is killed (`kill -9`) under a fleet of simulated devices, and a rollout starts while it is away.

`edge-registry up` starts it again. Measured from the kill: when all devices are connected again, when all have heard of
the version that was decided without a broker, when every report of before is counted, and whether a device that lived
all the time was ever said to be offline. With `--strict` a goal that is missed is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.simulator.process import Simulation, allow_descriptors, plans
from benchmarks.simulator.registry import FleetRegistry
from examples.demo.stack import Stack

DEVICES = 5_000
PATIENCE_S = 600.0
LOOK_EVERY_S = 0.5
DRAINED_GOAL_S = 60.0


@dataclass
class Outage:
    """What was seen, in seconds from the kill."""

    devices: int
    connected_s: float | None = None
    notified_s: float | None = None
    counted_s: float | None = None
    """Every report of before the kill is acknowledged, which the registry does once it is counted."""
    online_s: float | None = None
    """The registry says of all devices that they are there."""
    ended_s: float | None = None
    most_offline: int = 0
    """Devices that were said to be offline at one moment."""
    looks: list[dict[str, int]] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        """The goals that are missed."""
        times = {"connected": self.connected_s, "notified": self.notified_s, "counted": self.counted_s}
        late = [
            f"{name} after {seconds} s, the goal is {DRAINED_GOAL_S:.0f} s"
            for name, seconds in times.items()
            if seconds is None or seconds > DRAINED_GOAL_S
        ]
        return late + ([f"{self.most_offline} were said to be offline"] if self.most_offline else [])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--processes", type=int, default=2, help="that simulate devices")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    allow_descriptors(options.devices)
    outage = measure(options.devices, processes=options.processes)
    if options.json:
        print(json.dumps(asdict(outage), indent=2))
    else:
        print(f"{outage.devices} devices, seconds from the kill of the broker:")
        for what, seconds in (
            ("all connected again", outage.connected_s),
            ("all have heard of the new version", outage.notified_s),
            ("every report of before the kill counted", outage.counted_s),
            ("all online in the registry, by their new sessions", outage.online_s),
            ("all run the new version", outage.ended_s),
        ):
            print(f"  {what:<52} {'never' if seconds is None else f'{seconds:.1f}':>7}")
        print(f"said to be offline at one moment, though all lived: {outage.most_offline}")
    if outage.missed:
        print("missed: " + "; ".join(outage.missed), file=sys.stderr)
    return 1 if outage.missed and options.strict else 0


def measure(size: int, *, processes: int) -> Outage:
    """A fleet that runs version 1, the kill, and version 2."""
    with tempfile.TemporaryDirectory(prefix="shoal-fleet-") as folder, Stack(Path(folder)) as stack:
        registry = FleetRegistry(stack)
        registry.prepare()
        keys = registry.enrol(size)
        simulation = Simulation(plans(keys, registry.state.mqtt_url, processes=processes, faulty=False))
        simulation.start()
        simulation.wait(lambda seen: seen.connected == size, "all are connected", timeout_s=PATIENCE_S)
        registry.wait_finished(registry.roll_out("1", max_failures=0))
        simulation.wait(lambda seen: seen.reports >= size, "all have reported", timeout_s=PATIENCE_S)
        registry.wait_online(size, timeout_s=PATIENCE_S)
        outage = watch(registry, simulation, size)
        simulation.stop()
        return outage


def watch(registry: FleetRegistry, simulation: Simulation, size: int) -> Outage:
    """Kill the broker, start a rollout, and look until all is well again."""
    outage = Outage(size)
    sessions = registry.sessions()
    simulation.forget()
    killed = time.monotonic()
    registry.kill_broker()
    registry.roll_out("2", max_failures=0)
    away = False

    def first(known: float | None, *, now: bool) -> float | None:
        return known if known is not None or not now else time.monotonic() - killed

    while outage.ended_s is None or outage.online_s is None or outage.counted_s is None:
        seen = simulation.look()
        presences = registry.presences()
        away = away or seen.connected < size
        outage.looks.append(
            {"at_ms": int(1000 * (time.monotonic() - killed)), "connected": seen.connected, **presences}
        )
        outage.most_offline = max(outage.most_offline, presences["offline"])
        outage.connected_s = first(outage.connected_s, now=away and seen.connected == size)
        outage.notified_s = first(outage.notified_s, now=seen.notified == size)
        outage.ended_s = first(outage.ended_s, now=seen.ended == size)
        outage.counted_s = first(outage.counted_s, now=away and seen.connected > 0 and not seen.left_over)
        outage.online_s = first(
            outage.online_s,
            now=presences["online"] == size and all(new > sessions[name] for name, new in registry.sessions().items()),
        )
        if time.monotonic() - killed > PATIENCE_S:
            break
        time.sleep(LOOK_EVERY_S)
    return outage


if __name__ == "__main__":
    sys.exit(main())
