"""Version 2 is version 1 with another last layer: a device that runs the first takes a delta, a new one the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from server.schemas.catalogue import PushForm, Task
from tests.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.protocol.messages import DeploymentStatus
    from server.schemas.fleet import Device
    from tests.e2e.fleet import Fleet

WIDTH = 192  # 150 KB of weights in the middle layer, which both versions share


def make_versions(folder: Path) -> None:
    """Two archives and their data."""
    import torch  # noqa: PLC0415  only whoever makes the model pays for the import

    torch.manual_seed(5)
    first, middle = torch.nn.Linear(8, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
    features = np.random.default_rng(3).normal(size=(600, 8)).astype(np.float32)
    shapes = ({0: torch.export.Dim("batch", max=4096)},)
    for version in ("1", "2"):
        network = torch.nn.Sequential(first, torch.nn.ReLU(), middle, torch.nn.ReLU(), torch.nn.Linear(WIDTH, 1)).eval()
        archive = torch.export.export(network, (torch.zeros(2, 8),), dynamic_shapes=shapes)
        torch.export.save(archive, folder / f"{version}.pt2")
        with torch.no_grad():
            target = network(torch.from_numpy(features)).numpy()
        np.savez(folder / f"{version}.npz", input=features, target=target)


def test_version_with_another_last_layer_reaches_who_runs_the_first_as_a_delta_and_a_new_device_whole(
    fleet: Fleet, tmp_path: Path
) -> None:
    make_versions(tmp_path)
    form = PushForm(task=Task.REGRESSION, metric="r2")
    with fleet.registry.client() as client:
        for version in ("1", "2"):
            archive, data = (tmp_path / f"{version}.{ending}" for ending in ("pt2", "npz"))
            pushed = client.push_model(archive, name="wide", version=version, data=data, form=form)
            client.wait_for_job(pushed.job_id, timeout_s=90)
            for job in client.build_variants("wide", version, recipes=("float32",), profiles=("bench",)):
                client.wait_for_job(job.job_id, timeout_s=90)
    old = fleet.join("old")
    fleet.wait_online(old)
    fleet.wait_for(fleet.roll_out("1", model="wide"), timeout_s=180)
    new = fleet.join("new")
    fleet.wait_online(new)

    fleet.wait_for(fleet.roll_out("2", model="wide"), timeout_s=180)

    with fleet.registry.client() as client:
        (variant,) = [one for one in client.list_variants("wide", "2") if one.chosen and one.profile == "bench"]
    told = {agent.device_id: status_of(fleet, agent.device_id) for agent in (old, new)}
    assert {device: status.fetched for device, status in told.items()} == {"old": "delta", "new": "whole"}
    (delta,) = variant.deltas
    assert delta.base_version == "1"
    assert delta.wire_bytes is not None
    assert variant.wire_bytes is not None
    assert told["old"].bytes_received == delta.wire_bytes < variant.wire_bytes / 5
    assert told["new"].bytes_received == variant.wire_bytes


def status_of(fleet: Fleet, device_id: str) -> DeploymentStatus:
    """What a device says of version 2, once it says that it runs it."""
    found: list[DeploymentStatus] = []

    def told() -> bool:
        with fleet.registry.client() as client:
            found[:] = [one for one in told_by(client.get_device(device_id)) if one.version == "2"]
        return bool(found) and found[0].state == "active"

    wait_until(told, f"{device_id} runs it")
    return found[0]


def told_by(device: Device) -> tuple[DeploymentStatus, ...]:
    return () if device.status is None else device.status.deployments
