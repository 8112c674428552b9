"""Real photos on an Ethos-U65: the variant that an i.MX 93 gets has all its operators on the processor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.profiles import well_known
from tests.compressors.conftest import Shared, Upload, build_once, inputs_of

SOURCE = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist


@pytest.mark.slow
def test_convnet_on_fashion_mnist_runs_on_an_ethos_u65_altogether(shared: Shared) -> None:
    if not SOURCE.exists():
        pytest.skip("the data set is not installed: apt-get install dataset-fashion-mnist")

    def make(folder: Path) -> None:
        script = Path(__file__).with_name("fashion.py")
        subprocess.run([sys.executable, str(script), str(SOURCE), str(folder), "1", "6000"], check=True)

    folder = shared.once("fashion", make)
    upload = Upload(folder / "fashion.pt2", folder / "fashion.npz")
    request = {
        "inputs": inputs_of(upload, task="classification", metric="top1"),
        "profiles": [well_known()["imx93"].model_dump(mode="json")],
        "recipes": ["static-int8", "static-int8-ethos-u65-256"],
        "pythons": {"litert": sys.executable},
    }
    built = build_once(shared, "fashion-build", request)
    variants = built.variants("imx93")
    on_npu = variants["static-int8-ethos-u65-256", "litert", "ethos-u"]
    assert on_npu["chosen"], on_npu["reason"]
    assert on_npu["steps"][-1]["figures"]["operators_off_npu"] == 0
    assert on_npu["metric"]["value"] > 0.6
    assert on_npu["metric_drop"]["value"] < 0.02
