"""The demo: compress two models for three kinds of device, roll them out, update them under load, and tell the truth.

Ends by itself with a table, and with the same figures as JSON in `.demo/result.json`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from edge_agent.probe.read import probe
from edge_agent.protocol.profile import DeviceProfile, Limits, RuntimeName
from examples.demo.load import DeviceClient, SteadyLoad, Tally
from examples.demo.stack import REPOSITORY, DemoError, Stack, wait_until
from examples.vision import photos, preprocess
from server.client import RegistryClient, RegistryClientError
from server.schemas.catalogue import Preprocessing, PushForm, Task
from server.schemas.rollouts import RolloutOptions, RolloutRequest, RolloutState, Wave
from server.schemas.telemetry import GroupBy

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from server.schemas.rollouts import Rollout

FOLDER = REPOSITORY / ".demo"
MIB = 1 << 20
VISION, PRICE = "vision", "price"
REQUESTS_PER_SECOND = {VISION: 8.0, PRICE: 50.0}
LOAD_AFTER_UPDATE_S = 5.0
ROLLOUT_DEADLINE_S = 400.0
DEVICES = 3
console = Console(width=None if sys.stdout.isatty() else 124)


@dataclass(frozen=True)
class DemoDevice:
    """One agent of the demo and its kind."""

    name: str
    profile: DeviceProfile
    port: int = 0
    fits: tuple[str, ...] = (VISION, PRICE)


@dataclass
class Row:
    """What one device made of one model; a row of the final table."""

    device: str
    profile: str
    model: str
    version: str = "-"
    variant: str = "-"
    metric: str = "-"
    agreement: float | None = None
    photos_right: str = "-"
    host_p95_ms: float | None = None
    device_p50_ms: float | None = None
    device_p95_ms: float | None = None
    inferences: int = 0
    bytes_travelled: int = 0
    requests_during_update: int = 0
    requests_failed: int = 0
    note: str = ""
    answered_by_version: dict[str, int] = field(default_factory=dict)


def say(text: str) -> None:
    """One line of the story, with the time since the start."""
    console.print(f"[dim]{time.monotonic() - STARTED:6.1f} s[/dim]  {text}")


STARTED = time.monotonic()


def make_models(folder: Path) -> None:
    """Write the networks and their data, once."""
    wanted = ["photos.npz", "houses.npz", *(f"{model}-{v}.pt2" for model in (VISION, PRICE) for v in (1, 2))]
    if all((folder / name).exists() for name in wanted):
        say("models and data are there from the last run")
        return
    for example in ("vision", "price"):
        # a process of its own: training needs torch, the rest of the demo does not
        subprocess.run(
            [sys.executable, "-m", f"examples.{example}", str(folder)],
            check=True,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
        )
    say("two networks in two versions each, exported as .pt2, with their data")


def demo_devices() -> list[DemoDevice]:
    """Three kinds of device, all of this machine's hardware, with different runtimes and limits."""
    host = probe(data_dir=FOLDER, runtimes=(RuntimeName.LITERT,), name="demo-host").model_copy(update={"threads": 1})

    def kind(name: str, runtime: RuntimeName, limits: Limits, description: str) -> DeviceProfile:
        changes = {"name": name, "runtimes": (runtime,), "limits": limits, "description": description, "npu": None}
        profile: DeviceProfile = host.model_copy(update=changes)
        return profile

    return [
        DemoDevice(
            "till-1", kind("till", RuntimeName.TFLITE, Limits(latency_p95_ms=250), "a checkout till, tflite-runtime")
        ),
        DemoDevice(
            "camera-1",
            kind(
                "camera",
                RuntimeName.LITERT,
                Limits(download_bytes=8 * MIB, ram_bytes=40 * MIB),
                "too small for float32",
            ),
        ),
        DemoDevice(
            "badge-1",
            kind("badge", RuntimeName.LITERT, Limits(download_bytes=MIB // 4), "a quarter of a megabyte for a model"),
            fits=(PRICE,),
        ),
    ]


def push(client: RegistryClient, folder: Path, model: str, version: str) -> None:
    """Push a version, wait until it is accepted, and have its variants built."""
    form, data = {
        VISION: (
            PushForm(
                task=Task.CLASSIFICATION,
                metric="top1",
                preprocessing=Preprocessing(mean=(127.0,), std=(128.0,), layout="NCHW", note="RGB, 0 to 255"),
            ),
            "photos.npz",
        ),
        PRICE: (PushForm(task=Task.REGRESSION, metric="r2"), "houses.npz"),
    }[model]
    pushed = client.push_model(
        folder / f"{model}-{version}.pt2", name=model, version=version, data=folder / data, form=form
    )
    client.wait_for_job(pushed.job_id, timeout_s=300)
    for job in client.build_variants(model, version):
        client.wait_for_job(job.job_id, timeout_s=900)
    variants = client.list_variants(model, version)
    choices = client.list_choices(model, version)
    taken = ", ".join(f"{choice.profile}: {choice.variant_id or '[yellow]none[/yellow]'}" for choice in choices)
    say(f"{model}@{version}: {len(variants)} candidates measured; {taken}")
    for choice in choices:
        if choice.refusal is not None:
            say(f"  [yellow]{choice.refusal.sentence}[/yellow]")


def roll_out(client: RegistryClient, model: str, version: str) -> Rollout:
    """Roll a version out in two waves and wait for the end."""
    waves = (Wave(percent=34.0), Wave(percent=100.0))
    # minutes long, so that no wave waits for a window of measurements
    request = RolloutRequest(model=model, version=version, waves=waves, options=RolloutOptions(gate_deadline_s=0))
    rollout_id = client.start_rollout(request).rollout_id

    def ended() -> bool:
        return client.get_rollout(rollout_id).state not in {RolloutState.PREPARING, RolloutState.RUNNING}

    wait_until(ended, f"the rollout of {model}@{version} ends", timeout_s=ROLLOUT_DEADLINE_S)
    rollout = client.get_rollout(rollout_id)
    if rollout.state is not RolloutState.FINISHED:
        raise DemoError(f"the rollout of {model}@{version} is {rollout.state}: {rollout.reason}")
    return rollout


def classify_photos(device: DemoDevice) -> tuple[int, int]:
    """Send every photo to a device; how many it got right."""
    client = DeviceClient("127.0.0.1", device.port, VISION)
    right = 0
    labelled = photos()
    for path, label in labelled:
        with Image.open(path) as image:
            scores, _ = client.infer("image", preprocess(image)[None])
        right += int(scores[0].argmax() == label)
    client.close()
    return right, len(labelled)


def load_rows(folder: Path, model: str) -> NDArray[np.float32]:
    """What the steady clients send."""
    file, name = {VISION: ("photos.npz", "image"), PRICE: ("houses.npz", "features")}[model]
    with np.load(folder / file) as archive:
        rows: NDArray[np.float32] = archive[name][:64]
    return rows


def update_under_load(client: RegistryClient, folder: Path, devices: list[DemoDevice]) -> dict[tuple[str, str], Tally]:
    """Roll version 2 of both models out while steady clients ask every device."""
    loads = {}
    for device in devices:
        for model in device.fits:
            name = "image" if model == VISION else "features"
            connection = DeviceClient("127.0.0.1", device.port, model)
            load = SteadyLoad(connection, name, load_rows(folder, model), per_second=REQUESTS_PER_SECOND[model])
            loads[device.name, model] = load
            load.start()
    for model in (VISION, PRICE):
        rollout = roll_out(client, model, "2")
        say(f"{model}@2 is on the fleet, under load: {counts(rollout)}")
    time.sleep(LOAD_AFTER_UPDATE_S)
    return {key: load.stop() for key, load in loads.items()}


def all_online(client: RegistryClient) -> bool:
    """Whether every device that has joined is connected."""
    return (
        all(device.presence == "online" for device in client.list_devices()) and len(client.list_devices()) == DEVICES
    )


def counts(rollout: Rollout) -> str:
    """A rollout's devices by state."""
    running = sum(wave.running for wave in rollout.waves)
    refused = sum(wave.no_variant for wave in rollout.waves)
    return f"{running} running" + (f", {refused} without a variant" if refused else "")


def collect(
    client: RegistryClient, devices: list[DemoDevice], tallies: dict[tuple[str, str], Tally], right: dict[str, str]
) -> list[Row]:
    """Put together what the registry knows and what the clients saw."""
    rows = []
    telemetry = {
        (row.group[GroupBy.DEVICE], row.group[GroupBy.VARIANT]): row
        for row in client.get_telemetry(by=("device", "variant"))
    }
    for device in devices:
        status = client.get_device(device.name).status
        for model in (VISION, PRICE):
            row = Row(device.name, device.profile.name, model)
            rows.append(row)
            choice = next(c for c in client.list_choices(model, "2") if c.profile == device.profile.name)
            if choice.refusal is not None:
                row.note = choice.refusal.sentence
                continue
            active = next(d for d in status.deployments if d.model == model and d.state == "active") if status else None
            if active is None:
                row.note = "nothing is active"
                continue
            variant = next(v for v in client.list_variants(model, "2") if v.variant_id == active.variant_id)
            row.version, row.variant = active.version, f"{variant.recipe} {variant.runtime}/{variant.delegate}"
            if variant.metric is not None:
                row.metric = f"{variant.metric.value:.3f} [{variant.metric.low:.3f}, {variant.metric.high:.3f}]"
            row.agreement = variant.agreement.value if variant.agreement else None
            row.host_p95_ms = variant.latency_p95_ms.value if variant.latency_p95_ms else None
            row.photos_right = right.get(device.name, "-") if model == VISION else "-"
            row.bytes_travelled = active.bytes_received
            measured = telemetry.get((device.name, active.variant_id))
            if measured is not None:
                row.device_p50_ms, row.device_p95_ms = measured.invoke.p50_ms, measured.invoke.p95_ms
                row.inferences = measured.inferences
            tally = tallies[device.name, model]
            row.requests_during_update = len(tally.latencies_ms) + len(tally.failures)
            row.requests_failed = len(tally.failures)
            row.answered_by_version = tally.by_version
            row.note = tally.failures[0] if tally.failures else ""
    return rows


def show(rows: list[Row]) -> None:
    """The final table."""
    table = Table(
        title="What ran where, how fast, how right, and what the update cost", pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in (
        "device",
        "model",
        "runs",
        "test metric [95 %]",
        "agrees",
        "photos",
        "p50 ms",
        "p95 ms",
        "wire MB",
        "asked",
        "failed",
    ):
        table.add_column(column, justify="left" if column in {"device", "model", "runs"} else "right")
    for row in rows:
        table.add_row(
            f"{row.device}",
            row.model if row.version == "-" else f"{row.model}@{row.version}",
            row.variant if row.variant != "-" else "[yellow]no variant fits[/yellow]",
            row.metric,
            "-" if row.agreement is None else f"{row.agreement:.3f}",
            row.photos_right,
            "-" if row.device_p50_ms is None else f"{row.device_p50_ms:.3f}",
            "-" if row.device_p95_ms is None else f"{row.device_p95_ms:.3f}",
            f"{row.bytes_travelled / 1e6:.2f}",
            str(row.requests_during_update),
            f"[red]{row.requests_failed}[/red]" if row.requests_failed else "0",
        )
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.device}, {row.model}: {row.note}")


def fresh_folder() -> Path:
    """The demo's folder without the last run's registry and devices; models and finished compressions are kept."""
    models = FOLDER / "models"
    models.mkdir(parents=True, exist_ok=True)
    kept = FOLDER / "registry" / "cache"
    aside = FOLDER / "cache"
    if kept.exists() and not aside.exists():
        kept.rename(aside)
    for entry in FOLDER.iterdir():
        if entry in {models, aside}:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (FOLDER / "registry").mkdir()
    if aside.exists():
        aside.rename(kept)
    return models


def run() -> list[Row]:
    """The whole story."""
    models = fresh_folder()
    make_models(models)
    with Stack(FOLDER) as stack:
        url = stack.start_registry(SHOAL_TELEMETRY_INTERVAL_S="3")
        say(f"the registry is up: {url}")
        with RegistryClient(url, ca=stack.root) as client:
            devices = []
            for device in demo_devices():
                client.add_profile(device.profile)
                token = client.create_token(profile=device.profile.name).token
                tflite = RuntimeName.TFLITE in device.profile.runtimes
                port = stack.start_agent(device.name, registry_url=url, token=token, tflite=tflite)
                devices.append(DemoDevice(device.name, device.profile, port, device.fits))
            wait_until(lambda: stack.agents_live() and all_online(client), "all devices are online", timeout_s=60)
            say("three devices have joined: a till on tflite-runtime, a camera and a badge on LiteRT")
            for model in (VISION, PRICE):
                for version in ("1", "2"):
                    push(client, models, model, version)
            for model in (VISION, PRICE):
                say(f"{model}@1 is on the fleet: {counts(roll_out(client, model, '1'))}")
            for device in devices:
                if VISION in device.fits:
                    say(f"{device.name} gets {'{} of {}'.format(*classify_photos(device))} photos right with version 1")
            tallies = update_under_load(client, models, devices)
            right = {d.name: "{}/{}".format(*classify_photos(d)) for d in devices if VISION in d.fits}
            time.sleep(2 * 3.0 + 1.0)  # two telemetry windows: the last requests are in the registry
            return collect(client, devices, tallies, right)


def main() -> int:
    """Run the demo; 0 when everything that should run runs and no request failed."""
    try:
        rows = run()
    except (DemoError, RegistryClientError) as exc:
        console.print(f"[red]The demo can't go on:[/red] {exc}")
        return 1
    show(rows)
    seconds = time.monotonic() - STARTED
    failed = sum(row.requests_failed for row in rows)
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    result: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "rows": [asdict(row) for row in rows],
        "failed_requests": failed,
    }
    (FOLDER / "result.json").write_text(json.dumps(result, indent=2))
    console.print(f"{seconds:.0f} s; {failed} requests failed during the update; figures in {FOLDER.name}/result.json")
    if left:
        console.print(f"[red]left behind:[/red] {left}")
    return 1 if failed or left else 0


if __name__ == "__main__":
    raise SystemExit(main())
