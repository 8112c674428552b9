"""A rollout to fleets of 100, 1,000 and 10,000 simulated devices on one registry and one Mosquitto.

The registry is whole (`edge-registry up`), the broker is Mosquitto, each device has a session of its own and runs the
agent's own core; transfers and self-tests are simulated (`benchmarks/simulator`). 5 % of the devices have a fault: a
cut connection, a failed transfer, a reboot, or an answer that is not the expected one, and then they refuse for good.

Prints, for each size, after how many seconds all were notified and all had come to an end, and what the registry took
for it. With `--strict` a goal that is missed is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.simulator.process import Simulation, allow_descriptors, plans
from benchmarks.simulator.registry import FleetRegistry
from edge_agent.protocol.states import DeploymentState
from examples.demo.stack import Stack

if TYPE_CHECKING:
    from benchmarks.simulator.device import Times
    from benchmarks.simulator.registry import Cost

SIZES = (100, 1_000, 10_000)
CONNECT_S = 300.0  # patience
DESCRIPTORS_BESIDE = 500  # what a process opens besides the devices' connections
NOT_OURS = frozenset({"mosquitto", "seaweedfs"})
NOTIFIED_GOAL_S, ENDED_GOAL_S = 60.0, 300.0


@dataclass(frozen=True)
class Row:
    """One fleet."""

    devices: int
    connected_s: float
    notified_p50_s: float
    notified_all_s: float
    ended_all_s: float
    finished_s: float
    """When the rollout says so."""
    active: int
    refused: int
    rss_mb: dict[str, float]
    """At the end, by process of the registry."""
    cpu_s: dict[str, float]
    """From the start of the rollout, by process; `devices` are the simulated ones."""

    @property
    def missed(self) -> list[str]:
        """The goals that this fleet misses."""
        goals = {
            "all notified": (self.notified_all_s, NOTIFIED_GOAL_S),
            "all at an end": (self.ended_all_s, ENDED_GOAL_S),
        }
        return [
            f"{self.devices} devices, {name}: {seconds:.0f} s, the goal is {goal:.0f} s"
            for name, (seconds, goal) in goals.items()
            if seconds > goal
        ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--processes", type=int, default=2, help="that simulate devices")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    allow_descriptors(max(options.devices) + DESCRIPTORS_BESIDE)
    rows = [measure(size, processes=options.processes) for size in options.devices]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows)
    missed = [sentence for row in rows for sentence in row.missed]
    if missed:
        print("missed: " + "; ".join(missed), file=sys.stderr)
    return 1 if missed and options.strict else 0


def measure(size: int, *, processes: int) -> Row:
    """One fleet, from nothing."""
    with tempfile.TemporaryDirectory(prefix="shoal-fleet-") as folder, Stack(Path(folder)) as stack:
        registry = FleetRegistry(stack)
        registry.prepare()
        simulation = Simulation(plans(registry.enrol(size), registry.state.mqtt_url, processes=processes))
        began = time.monotonic()
        simulation.start()
        simulation.wait(lambda seen: seen.connected == size, "all are connected", timeout_s=CONNECT_S)
        connected_s = time.monotonic() - began
        registry.wait_online(size, timeout_s=CONNECT_S)
        return roll_out(registry, simulation, size, connected_s)


def roll_out(registry: FleetRegistry, simulation: Simulation, size: int, connected_s: float) -> Row:
    """Offer the version to everybody at once, and wait for the end."""
    before, devices_before = registry.cost(), simulation.look().cpu_s
    began = time.time()
    # those that refuse for good must not stop the others here
    rollout_id = registry.roll_out("1", max_failures=size)
    simulation.wait(lambda seen: seen.ended == size, "all are at an end", timeout_s=3 * ENDED_GOAL_S)
    registry.wait_finished(rollout_id)
    finished_s = time.time() - began
    spent, devices_cpu_s = registry.cost().since(before), simulation.look().cpu_s - devices_before
    return row_of(
        simulation.stop(), spent, began=began, finished_s=finished_s, cpu_s=devices_cpu_s, ready_s=connected_s
    )


def row_of(
    times: dict[str, Times], spent: Cost, *, began: float, finished_s: float, cpu_s: float, ready_s: float
) -> Row:
    """What was seen, in figures."""
    notified = sorted(one.notified - began for one in times.values() if one.notified is not None)
    states = [one.state for one in times.values()]
    return Row(
        devices=len(times),
        connected_s=ready_s,
        notified_p50_s=notified[len(notified) // 2],
        notified_all_s=notified[-1],
        ended_all_s=max(one.ended - began for one in times.values() if one.ended is not None),
        finished_s=finished_s,
        active=states.count(DeploymentState.ACTIVE),
        refused=states.count(DeploymentState.REJECTED),
        rss_mb=spent.rss_mb,
        cpu_s={**spent.cpu_s, "devices": cpu_s},
    )


def print_table(rows: list[Row]) -> None:
    """For people."""
    print("devices  connected  notified: half, all  all ended  finished  active  refused  registry    broker")
    for row in rows:
        print(
            f"{row.devices:>7} {row.connected_s:>8.1f} s {row.notified_p50_s:>11.1f} {row.notified_all_s:>6.1f} s"
            f" {row.ended_all_s:>8.1f} s {row.finished_s:>7.1f} s {row.active:>7} {row.refused:>8}"
            f" {sum(mb for name, mb in row.rss_mb.items() if name not in NOT_OURS):>6.0f} MB"
            f" {row.rss_mb['mosquitto']:>6.1f} MB"
        )
    print("\nmilliseconds of CPU for each device, from the start of the rollout to its end:")
    names = sorted({name for row in rows for name in row.cpu_s})
    print("devices " + " ".join(f"{name:>{max(8, len(name))}}" for name in names))
    for row in rows:
        each = {name: 1000 * row.cpu_s.get(name, 0.0) / row.devices for name in names}
        print(f"{row.devices:>7} " + " ".join(f"{each[name]:>{max(8, len(name))}.2f}" for name in names))


if __name__ == "__main__":
    sys.exit(main())
