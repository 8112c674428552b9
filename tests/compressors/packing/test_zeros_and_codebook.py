"""Pruned to 80 % zeros and clustered to 16 values, a network is a third of the download, and a device has it whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from compressors.building.run import run_build
from compressors.contract import BuildRequest
from compressors.files.litert import weighted_operators
from edge_agent.protocol.manifest import Encoding, FileRole, VariantManifest
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runtimes.registry import open_runtime
from edge_agent.transfer.unpack import unpack
from tests.compressors.conftest import board

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.contract import BuiltVariant

VALUES = 16
STEPS = [
    {"step": "prune-weights", "parameters": {"sparsity": 0.8}},
    {"step": "cluster", "parameters": {"values": VALUES}},
]


@pytest.fixture
def variants(tmp_path: Path) -> dict[str, BuiltVariant]:
    """Of a network of 83,000 weights, by recipe; on LiteRT with XNNPACK. Their files lie in `output`."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    rows = torch.randn(120, 64)
    shapes = {"input": {0: torch.export.Dim("batch", max=4096)}}
    torch.export.save(torch.export.export(network, (rows[:2],), dynamic_shapes=shapes), tmp_path / "net.pt2")
    with torch.no_grad():
        np.savez(tmp_path / "net.npz", input=rows.numpy(), target=network(rows).argmax(dim=1).numpy())
    request = BuildRequest.model_validate(
        {
            "inputs": {
                "model": "net",
                "version": "1",
                "model_path": tmp_path / "net.pt2",
                "data_path": tmp_path / "net.npz",
                "task": "classification",
                "metric": "top1",
            },
            "profiles": [board("free", runtimes=("litert",))],
            "recipes": ["float32", {"name": "small", "steps": [*STEPS, {"step": "export-litert"}]}],
            "pythons": {"litert": sys.executable},
            "output_dir": tmp_path / "output",
        }
    )
    return {one.recipe: one for one in run_build(request).variants if one.delegate == Delegate.XNNPACK}


def test_zeros_and_shared_values_travel_in_a_third_and_answer_on_a_device_as_on_the_host(
    variants: dict[str, BuiltVariant], tmp_path: Path
) -> None:
    small, plain = variants["small"], variants["float32"]
    assert small.wire_bytes is not None
    assert plain.wire_bytes is not None
    assert small.wire_bytes <= plain.wire_bytes / 3
    manifest_path = tmp_path / "output" / str(small.manifest_sha256)
    manifest = VariantManifest.model_validate_json(manifest_path.read_bytes())
    assert manifest.object.encoding is Encoding.WORDS_ZSTD
    unpack(tmp_path / "output" / str(small.object_sha256), manifest_path, tmp_path / "installed")
    with np.load(tmp_path / "installed" / FileRole.GOLDEN.value) as golden:
        inputs, expected = golden["in_0"], golden["out_0"]
    layers = [one.filter for one in weighted_operators((tmp_path / "installed" / FileRole.MODEL.value).read_bytes())]
    assert len(layers) == 3
    for weights in layers:
        assert len(np.unique(weights)) <= VALUES
    assert sum(np.unique(one, return_counts=True)[1].max() for one in layers) >= int(
        0.8 * sum(one.size for one in layers)
    )
    model = open_runtime(RuntimeName.LITERT).load(
        tmp_path / "installed" / FileRole.MODEL.value, threads=1, delegate=Delegate.XNNPACK
    )
    answers = np.concatenate([model.invoke([row[None]])[0] for row in inputs])
    assert len(answers) == len(expected) > 1
    np.testing.assert_allclose(answers, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(expected) > 0.01, "a network that answers nothing would pass"
