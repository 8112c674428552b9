"""How many telemetry reports a registry takes in: over Mosquitto, into its database, acknowledged to the devices.

`edge-registry up` runs whole; one process publishes what a thousand devices would, at most 8,000 reports on the way at
once, each with latencies of its own; 5 % are published twice. Prints reports a second, from the first that is in the
database to the last, and whether each was counted once. With `--strict` a goal that is missed is an error.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from benchmarks.simulator.device import INFERENCES, sketches
from benchmarks.simulator.registry import FleetRegistry
from edge_agent.protocol.messages import TelemetryReport, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from examples.demo.stack import Stack
from server.database import tables
from server.database.connect import Database
from server.mqtt import BrokerConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

REPORTS, DEVICES = 60_000, 1_000
TWICE = 0.05
# As a fleet does: what is not acknowledged by the registry is limited, here to less than the broker queues for it.
OUTSTANDING = 8_000
GOAL_PER_S = 3_000.0
PATIENCE_S = 300.0
ROOM_WAIT_S = 30.0


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    reports: int
    published_twice: int
    reports_per_s: float
    in_the_database: int
    inferences: int
    ingest_cpu_s: float
    broker_cpu_s: float
    ingest_mb: float


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=REPORTS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    figures = measure(options.reports)
    if options.json:
        print(json.dumps(asdict(figures), indent=2))
    else:
        print(f"{figures.reports_per_s:,.0f} reports a second into the database (goal: at least {GOAL_PER_S:,.0f})")
        print(
            f"{figures.reports:,} reports, {figures.published_twice:,} of them published twice: "
            f"{figures.in_the_database:,} counted, with {figures.inferences:,} inferences"
        )
        print(
            f"CPU: ingest {figures.ingest_cpu_s:.1f} s, broker {figures.broker_cpu_s:.1f} s; "
            f"memory of the ingest: {figures.ingest_mb:.0f} MB"
        )
    missed = []
    if figures.reports_per_s < GOAL_PER_S:
        missed.append("reports a second")
    if (figures.in_the_database, figures.inferences) != (figures.reports, figures.reports * INFERENCES):
        missed.append("each report counted once")
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed and options.strict else 0


def measure(count: int) -> Figures:
    """Publish, and count what arrives."""
    messages = [*reports(count)]
    twice = set(random.Random(1).sample(range(count), int(TWICE * count)))  # noqa: S311  a simulation
    allowed = [OUTSTANDING]
    with tempfile.TemporaryDirectory(prefix="shoal-fleet-") as folder, Stack(Path(folder)) as stack:
        registry = FleetRegistry(stack)
        registry.enrol(DEVICES)
        database = Database(f"sqlite:///{stack.data_dir / 'telemetry.db'}")
        before = registry.cost()
        publisher = threading.Thread(target=publish, args=(registry.state.mqtt_url, messages, twice, allowed))
        publisher.start()
        seen = [(time.monotonic(), 0)]
        while seen[-1][1] < count and time.monotonic() - seen[0][0] < PATIENCE_S:
            time.sleep(0.1)
            seen.append((time.monotonic(), counted(database)[0]))
            allowed[0] = seen[-1][1] + OUTSTANDING
        publisher.join()
        in_the_database, inferences = counted(database)
        database.close()
        spent = registry.cost().since(before)
    (began_s, first), (ended_s, last) = next(pair for pair in seen if pair[1]), seen[-1]
    return Figures(
        reports=count,
        published_twice=len(twice),
        reports_per_s=(last - first) / (ended_s - began_s),
        in_the_database=in_the_database,
        inferences=inferences,
        ingest_cpu_s=spent.cpu_s["ingest"],
        broker_cpu_s=spent.cpu_s["mosquitto"],
        ingest_mb=spent.rss_mb["ingest"],
    )


def reports(count: int) -> Iterator[tuple[str, bytes]]:
    """Topics and payloads: each device's reports in the order of their windows."""
    latencies = sketches(random.Random(0))  # noqa: S311  a simulation
    spools = [secrets.token_hex(16) for _ in range(DEVICES)]
    for number in range(count):
        window, device = divmod(number, DEVICES)
        report = TelemetryReport(
            spool_id=spools[device],
            sequence=window + 1,
            model="net",
            version="1",
            variant_id="net-1",
            deployment_id=f"dep-{device}",
            window_start=1.8e9 + 60.0 * window,
            window_s=60.0,
            requests=INFERENCES,
            inferences=INFERENCES,
            queue=latencies[(number + 1) % len(latencies)],
            invoke=latencies[number % len(latencies)],
        )
        yield device_topic(f"device-{device:05d}", DeviceTopic.TELEMETRY), encode(report)


def publish(mqtt_url: str, messages: list[tuple[str, bytes]], twice: set[int], allowed: list[int]) -> None:
    """Send them, some twice, as far as is allowed at the moment."""
    stop = threading.Event()
    connection = BrokerConnection(mqtt_url, "benchmark", (), lambda _: None)
    thread = threading.Thread(target=connection.run, args=(stop,))
    thread.start()
    try:
        if not connection.wait_ready(ROOM_WAIT_S):
            raise TimeoutError(f"no connection to {mqtt_url}: {connection.last_error}")
        sent = []
        for number, (topic, payload) in enumerate(messages):
            while number >= allowed[0]:
                time.sleep(0.01)
            for _ in range(2 if number in twice else 1):
                sent.append(connection.publish(topic, payload, qos=1, wait_s=ROOM_WAIT_S))  # noqa: PERF401  it waits
        while not all(one.is_done for one in sent):
            time.sleep(0.1)
    finally:
        stop.set()
        connection.wake()
        thread.join()


def counted(database: Database) -> tuple[int, int]:
    """Reports and inferences in the database."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(tables.reports.c.inferences), 0))
    with database.read() as connection:
        number, inferences = connection.execute(query).one()
    return int(number), int(inferences)


if __name__ == "__main__":
    sys.exit(main())
