"""What a latency here says of another CPU: only as much as somebody has published."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from compressors.building import prediction
from compressors.building.device_ratios import SPREAD, DeviceRatio, kind_of
from compressors.building.prediction import Predictor, predictor_for
from compressors.contract import DeviceFigure, HostRun, Origin
from compressors.files.formats import Target
from edge_agent.profiles import well_known
from edge_agent.protocol.profile import Delegate, DeviceProfile, Numbers, RuntimeName
from edge_agent.runtimes.measure import MeasureResult
from tests.compressors.conftest import board

XNNPACK = Target(RuntimeName.LITERT, Delegate.XNNPACK, 1)
PLAIN = Target(RuntimeName.LITERT, Delegate.NONE, 1)
PREDICTOR = Predictor({RuntimeName.LITERT: {Numbers.FLOAT32: 6.0, Numbers.INT8: 4.0}})
HOST = MeasureResult(p50_ms=1.0, p95_ms=2.0)
PYTHONS = {RuntimeName.LITERT: Path(sys.executable)}
PUBLISHED = [
    {"network": "mobilenet-v2", "numbers": numbers, "latency_ms": ms, "source": "a paper"}
    for numbers, ms in (("float32", 400.0), ("int8", 90.0))
]


def profile(**changes: object) -> DeviceProfile:
    known = {"published": PUBLISHED, "limits": {"latency_p95_ms": 50.0}, "runtimes": ["litert"]}
    return DeviceProfile.model_validate_json(json.dumps({**board("far"), **known, **changes}))


@pytest.mark.parametrize(
    ("target", "last_step", "lowest", "highest"),
    [
        pytest.param(XNNPACK, "export-litert", 6.0, 6.0, id="float"),
        pytest.param(XNNPACK, "weight-only", 6.0, 6.0, id="computed-in-float"),
        pytest.param(XNNPACK, "static-int8", 4.0, 4.0, id="int8"),
        pytest.param(XNNPACK, "dynamic-int8", 4.0, 6.0, id="published-for-neither"),
        pytest.param(PLAIN, "static-int8", 4.0, 6.0, id="other-kernels"),
    ],
)
def test_prediction_is_the_host_times_the_ratio_of_the_same_numbers(
    target: Target, last_step: str, lowest: float, highest: float
) -> None:
    found = PREDICTOR.p95_ms(target, last_step, HOST)
    assert found is not None
    assert found.origin is Origin.PREDICTED
    assert found.value == pytest.approx(2.0 * (lowest * highest) ** 0.5)
    assert (found.low, found.high) == pytest.approx((2.0 * lowest / SPREAD, 2.0 * highest * SPREAD))


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(Target(RuntimeName.TFLITE, Delegate.XNNPACK, 1), id="runtime-without-a-ratio"),
        pytest.param(Target(RuntimeName.LITERT, Delegate.ETHOS_U, 1, "ethos-u65-256"), id="npu"),
    ],
)
def test_nothing_is_predicted_without_a_ratio(target: Target) -> None:
    assert PREDICTOR.p95_ms(target, "static-int8", HOST) is None
    assert Predictor().p95_ms(XNNPACK, "static-int8", HOST) is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"limits": {}}, id="no-limit-on-latency"),
        pytest.param({"published": []}, id="nothing-published"),
        pytest.param({"cpu": {"model": "This-CPU", "cores": 4}}, id="this-cpu"),
        pytest.param({"threads": 2}, id="more-threads-than-cores-here"),
    ],
)
def test_known_network_is_not_even_built_where_it_could_say_nothing(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "_file", lambda *_arguments: pytest.fail("the known network was built"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0})
    assert predictor_for(profile(**changes), PYTHONS, host_cpu_model="This-CPU", cache_dir=None) == Predictor()


def test_what_devices_measured_goes_before_what_was_published_and_needs_none() -> None:
    kind = {"runtime": RuntimeName.LITERT, "delegate": Delegate.XNNPACK, "last_step": "static-int8"}
    run = HostRun.model_validate({**kind, "cpu_model": "This-CPU", "p50_ms": 1.0})
    figures = [DeviceFigure(profile="far", variant_id=f"v{i}", p95_ms=9.0, host=run) for i in range(3)]
    far = profile(published=[])
    predictor = predictor_for(far, PYTHONS, host_cpu_model="This-CPU", cache_dir=None, device_figures=figures)
    both = Predictor(PREDICTOR.ratios, predictor.devices)
    for found in (predictor.p95_ms(XNNPACK, "static-int8", HOST), both.p95_ms(XNNPACK, "static-int8", HOST)):
        assert found is not None
        assert found.value == pytest.approx(9.0)
        assert found.device_variants == 3
    assert predictor.p95_ms(XNNPACK, "export-litert", HOST) is None
    assert predictor.p95_ms(PLAIN, "static-int8", HOST) is None
    other = both.p95_ms(XNNPACK, "export-litert", HOST)
    assert other is not None
    assert other.value == pytest.approx(12.0)
    assert other.device_variants is None


def test_files_of_all_kinds_are_ordered_by_devices_where_one_kind_was_measured() -> None:
    devices = {
        kind_of(*XNNPACK[:2], step): DeviceRatio(ratio, ratio / 2, ratio * 2, 3)
        for step, ratio in (("static-int8", 2.0), ("export-litert", 8.0))
    }
    predictor = Predictor(devices=devices)
    assert predictor.expected_ms(XNNPACK, "static-int8", 3.0) == pytest.approx(6.0)
    assert predictor.expected_ms(XNNPACK, "export-litert", 2.0) == pytest.approx(16.0)
    assert predictor.expected_ms(PLAIN, "dynamic-int8", 2.0) == pytest.approx(8.0)  # times sqrt(2 * 8)
    assert predictor.p95_ms(PLAIN, "dynamic-int8", HOST) is None
    assert PREDICTOR.expected_ms(XNNPACK, "static-int8", 3.0) is None


def test_well_known_boards_name_the_source_of_what_is_published_for_them() -> None:
    published = {name: one.published for name, one in well_known().items() if one.published}
    assert {name: [(row.numbers, row.latency_ms) for row in rows] for name, rows in published.items()} == {
        "pi-3b-plus": [("float32", 79.0), ("int8", 30.0)],
        "pi-4": [("float32", 46.0), ("int8", 17.0)],
    }
    assert all("XNNPACK README" in row.source for rows in published.values() for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ratio_is_the_published_latency_over_that_of_the_same_network_here(tmp_path: Path) -> None:
    found, again = (predictor_for(profile(), PYTHONS, host_cpu_model="This-CPU", cache_dir=tmp_path) for _ in range(2))
    assert again == found  # the cache holds the files and what was measured
    ratios = found.ratios[RuntimeName.LITERT]
    assert {numbers: 0.1 < ratio < 1000 for numbers, ratio in ratios.items()} == {
        Numbers.FLOAT32: True,
        Numbers.INT8: True,
    }
    float_ms, int8_ms = (published / ratios[one] for one, published in ((Numbers.FLOAT32, 400.0), (Numbers.INT8, 90.0)))
    assert int8_ms < float_ms  # the network here: int8 is what XNNPACK is for
