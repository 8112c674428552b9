"""How objects reach devices: real agents, real delivery, store and broker, beside what the bare protocols take.

    python -m benchmarks.transfer [--agents 100] [--cut-agents 10] [--cuts 20] [--rounds 3] [--json FILE] [--strict]

1. A 10 MB object to 100 agents over MQTT, three times: from the bell (a retained desired state) until every block is on
   the disk and verified, and until the variant is unpacked, hashed and synced; how often each block was read from S3.
   Beside it Mosquitto sends the same bytes to as many bare sockets.
2. The bell rings for one device after the other: until its first block has come.
3. No bell at all: the database alone says what is wanted.
4. Over MQTT and over HTTPS, each device cut off 20 times by a proxy that counts at the device's sockets: bytes that
   came again, and all that is no object's byte (manifest, questions, states, headers, connecting again). Beside it a
   plain client that asks for ranges through the same proxy.

All parts share this machine's cores, and 100 devices one disk: set TMPDIR to a folder in memory to take the disk out.
"HTTPS" is HTTP here: the local registry has no certificates, and TLS would add bytes of its own. Ends by itself in
about four minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.transferring.agents import Agents, Happened
from benchmarks.transferring.plain import fan_out, ranged_get
from benchmarks.transferring.registry import KEY, Registry, Variant
from benchmarks.transferring.wire import Account, Cuts, MqttMeter, NoObjects, Wire
from edge_agent.protocol.manifest import BLOCK_BYTES

OBJECT_BYTES, SMALL_BYTES = 10_000_000, 1_000_000
SINGLE_BELLS, SINGLE_PAUSE_S = 100, 0.3
ASK_INTERVAL_S, SETTLED_S = 10.0, 3.0


@dataclass(frozen=True)
class Row:
    """One figure, and what it should be at most."""

    what: str
    value: float
    unit: str
    goal: float | None = None
    peer: str = ""

    @property
    def missed(self) -> bool:
        """Whether the goal was not reached."""
        return self.goal is not None and self.value > self.goal

    def text(self) -> str:
        """As a line of the table."""
        goal = "" if self.goal is None else f"{'MISSED' if self.missed else 'ok'}: at most {self.goal:g}"
        return f"{self.what:<70} {self.value:>12.3f} {self.unit:<3} {goal:<22} {self.peer}".rstrip()


class Bench:
    """The parts that all measurements share."""

    def __init__(self, folder: Path, stack: ExitStack, options: argparse.Namespace) -> None:
        self.folder, self.stack, self.options = folder, stack, options
        cuts = Cuts(options.cuts, OBJECT_BYTES // (options.cuts + 5), seed=0)
        self.registry = Registry(folder, stack, block_bytes=BLOCK_BYTES, cuts=cuts)
        self._made = 0

    def new_variant(self, size_bytes: int = OBJECT_BYTES) -> Variant:
        """An object of random bytes, in the store."""
        self._made += 1
        return self.registry.store(os.urandom(size_bytes), name=f"v{self._made}")

    def agents(self, name: str, devices: dict[str, tuple[Wire | None, Wire | None]], **settings: object) -> Agents:
        """Agents that are connected; each reaches API and broker by wires of its own, or directly."""
        folder = self.folder / name
        folder.mkdir()
        agents = Agents(folder, **settings)
        self.registry.add_devices(devices)
        members = {
            device: (_url("http", api, self.registry.api), _url("mqtt", mqtt, self.registry.mqtt))
            for device, (api, mqtt) in devices.items()
        }
        agents.start(members, key=KEY)
        agents.wait_for("connected", len(devices), timeout_s=60.0)
        return agents


def _url(scheme: str, wire: Wire | None, direct: tuple[str, int]) -> str:
    return f"{scheme}://127.0.0.1:{direct[1] if wire is None else wire.port}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--cut-agents", type=int, default=10)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    options = parser.parse_args()
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="shoal-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        bench = Bench(folder, stack, options)
        for measure in (
            undisturbed,
            one_by_one,
            unrung,
            partial(cut_off, transport="mqtt"),
            partial(cut_off, transport="https"),
        ):
            for row in measure(bench):
                rows.append(row)
                print(row.text(), flush=True)
    print(f"{OBJECT_BYTES:,} bytes in blocks of {BLOCK_BYTES:,}; {os.cpu_count()} cores shared by all parts")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    missed = [row.what for row in rows if row.missed]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed and options.strict else 0


def undisturbed(bench: Bench) -> list[Row]:
    """Everybody wants the same, and nothing goes wrong."""
    number, registry = bench.options.agents, bench.registry
    payload = os.urandom(OBJECT_BYTES)
    plain_s = fan_out(registry.mqtt, payload, block_bytes=BLOCK_BYTES, subscribers=number)
    devices = [f"calm-{n}" for n in range(number)]
    agents = bench.agents("calm", dict.fromkeys(devices, (None, None)))
    verified_s: list[float] = []
    installed_s: list[float] = []
    again_bytes, reads = 0, 0
    try:
        for generation in range(1, bench.options.rounds + 1):
            variant = bench.new_variant()
            rung_s = registry.want(dict.fromkeys(devices, variant), generation=generation)
            verified = agents.wait_for("verified", number, timeout_s=120.0)
            installed = agents.wait_for("installed", number, timeout_s=240.0)
            verified_s.append(max(_since(verified, rung_s)))
            installed_s.append(max(_since(installed, rung_s)))
            again_bytes += sum(one.received_bytes - OBJECT_BYTES for one in verified.values())
            sha256 = variant.object.sha256
            reads = max(reads, *(registry.reads.times[sha256, block] for block in range(variant.object.block_count)))
    finally:
        agents.close()
    return [
        Row(f"MQTT, {number} agents: all blocks verified, slowest of {len(verified_s)} rounds",
            max(verified_s), "s", 10.0, f"bare Mosquitto to {number} sockets: {plain_s:.2f} s"),
        Row("  the same, until all are unpacked, hashed and synced", max(installed_s), "s"),
        Row("  reads of one block from S3, most", reads, "", 1),
        Row("  bytes received twice, all agents", again_bytes, "B", 0),
    ]  # fmt: skip


def one_by_one(bench: Bench) -> list[Row]:
    """The bell rings for one device after the other: how long each takes to begin, alone on its way."""
    devices = [f"alone-{n}" for n in range(bench.options.cut_agents)]
    agents = bench.agents("alone", dict.fromkeys(devices, (None, None)))
    begun_s: list[float] = []
    try:
        for generation in range(1, 1 + SINGLE_BELLS // len(devices)):
            variant = bench.new_variant(SMALL_BYTES)
            rung_s: dict[str, float] = {}
            for device in devices:
                rung_s |= bench.registry.want({device: variant}, generation=generation)
                time.sleep(SINGLE_PAUSE_S)
            begun_s += _since(agents.wait_for("begun", len(devices), timeout_s=60.0), rung_s)
            agents.wait_for("installed", len(devices), timeout_s=60.0)
    finally:
        agents.close()
    p99_s = statistics.quantiles(begun_s, n=100)[98]
    return [
        Row(f"MQTT, bell to first block, one device after the other: p99 of {len(begun_s)}", p99_s, "s", 1.0),
        Row("  p50", statistics.median(begun_s), "s"),
    ]


def unrung(bench: Bench) -> list[Row]:
    """The bell is lost: what is wanted stands in the database alone."""
    devices = [f"deaf-{n}" for n in range(bench.options.cut_agents)]
    agents = bench.agents("deaf", dict.fromkeys(devices, (None, None)), ask_interval_s=ASK_INTERVAL_S)
    try:
        variant = bench.new_variant()
        time.sleep(SETTLED_S)  # what was asked at connecting is answered
        told_s = bench.registry.want(dict.fromkeys(devices, variant), generation=1, ring=False)
        noticed = agents.wait_for("noticed", len(devices), timeout_s=60.0)
    finally:
        agents.close()
    what = f"MQTT, lost bell: noticed, {len(devices)} agents that ask every {ASK_INTERVAL_S:g} s"
    return [Row(what, max(_since(noticed, told_s)), "s", ASK_INTERVAL_S)]


def cut_off(bench: Bench, *, transport: str) -> list[Row]:
    """Each device is cut off again and again, and counted at its sockets."""
    options, registry = bench.options, bench.registry
    size = OBJECT_BYTES // (options.cuts + 5)
    devices = [f"{transport}-{n}" for n in range(options.cut_agents)]
    wires: dict[str, tuple[Wire, Wire]] = {}
    for number, device in enumerate(devices):
        cuts = Cuts(options.cuts, size, seed=1 + number) if transport == "mqtt" else None
        wires[device] = (Wire(registry.api, meter=NoObjects), Wire(registry.mqtt, meter=MqttMeter, cuts=cuts))
    # over HTTPS every device has an object of its own: by its name in the request the proxy knows whose it is
    shared = bench.new_variant() if transport == "mqtt" else None
    wanted = {device: shared or bench.new_variant() for device in devices}
    agents = bench.agents(transport, dict(wires), transport=transport)
    try:
        before = {device: _carried(bench, wires[device], wanted[device]) for device in devices}
        rung_s = registry.want(wanted, generation=1)
        verified = agents.wait_for("verified", len(devices), timeout_s=300.0)
        after = {device: _carried(bench, wires[device], wanted[device]) for device in devices}
    finally:
        agents.close()
        for pair in wires.values():
            for wire in pair:
                wire.close()
    again = [after[device].payload_bytes - OBJECT_BYTES for device in devices]
    overhead = [after[d].other_bytes - before[d].other_bytes for d in devices]
    least_cuts = min(after[device].cuts for device in devices)
    allowed = 1.0 if transport == "https" else 2.0
    name = transport.upper()
    peer = "" if transport == "mqtt" else plain_peer(bench)
    return [
        Row(f"{name}, {len(devices)} agents cut {least_cuts} times each: verified", max(_since(verified, rung_s)), "s"),
        Row("  came again, worst device, in blocks", max(again) / BLOCK_BYTES, "", least_cuts),
        Row("  all that is no object's byte, worst device", 100 * max(overhead) / OBJECT_BYTES, "%", allowed, peer),
    ]


def plain_peer(bench: Bench) -> str:
    """A plain client through the same proxy with as many cuts."""
    variant = bench.new_variant()
    url = bench.registry.address_of(variant)
    data = ranged_get(url, size_bytes=OBJECT_BYTES)
    account = bench.registry.device_wire.account(variant.object.sha256)
    again = account.payload_bytes - len(data)
    share = 100 * account.other_bytes / OBJECT_BYTES
    return f"plain GET, {account.cuts} cuts: {share:.3f} %, {again / BLOCK_BYTES:.1f} blocks again"


def _carried(bench: Bench, wires: tuple[Wire, Wire], variant: Variant) -> Account:
    """All that the sockets of one device have carried so far."""
    accounts = [wires[0].account(), wires[1].account(), bench.registry.device_wire.account(variant.object.sha256)]
    return Account(
        up_bytes=sum(one.up_bytes for one in accounts),
        down_bytes=sum(one.down_bytes for one in accounts),
        payload_bytes=sum(one.payload_bytes for one in accounts),
        cuts=sum(one.cuts for one in accounts),
    )


def _since(happened: dict[str, Happened], began_s: dict[str, float]) -> list[float]:
    return [one.at_s - began_s[device] for device, one in happened.items()]


if __name__ == "__main__":
    sys.exit(main())
