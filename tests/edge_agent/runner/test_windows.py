from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.sketch import quantile_ms
from edge_agent.runner.windows import KIND_LIMIT, WindowMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.conftest import Workshop


@pytest.fixture
def meter(workshop: Workshop, manifest_of: Callable[..., VariantManifest]) -> WindowMeter:
    manifest = manifest_of(workshop.float_file(), workshop.network.signature)
    return WindowMeter(manifest, deployment_id="d1", source="http", now_s=100.0, unix_s=5000.0)


def test_cut_of_an_empty_window_is_nothing(meter: WindowMeter) -> None:
    assert meter.cut(now_s=110.0, unix_s=5010.0, rss_bytes=1) is None


def test_cut_reports_the_window_and_begins_another(meter: WindowMeter) -> None:
    for i in range(100):
        meter.observe(samples=2, queue_ms=0.0, preprocess_ms=0.1, invoke_ms=float(i + 1))
    meter.fail("bad_request")
    report = meter.cut(now_s=110.0, unix_s=5010.0, rss_bytes=77)
    assert report is not None
    assert (report.model, report.version, report.deployment_id, report.source) == ("tiny", "1", "d1", "http")
    assert (report.window_start, report.window_s, report.rss_bytes) == (5000.0, 10.0, 77)
    assert (report.requests, report.inferences, report.errors) == (101, 200, {"bad_request": 1})
    assert (report.queue.zero_count, report.preprocess.count, report.invoke.count) == (100, 100, 100)
    assert quantile_ms(report.invoke, 0.5) == pytest.approx(50, rel=0.02)
    assert meter.cut(now_s=120.0, unix_s=5020.0, rss_bytes=1) is None
    assert meter.inferences == 200


def test_cut_when_the_clock_was_set_back_keeps_the_length_of_the_window(meter: WindowMeter) -> None:
    meter.fail("bad_request")
    report = meter.cut(now_s=103.0, unix_s=20.0, rss_bytes=0)
    assert report is not None
    assert (report.window_start, report.window_s) == (5000.0, 3.0)


def test_fail_with_many_kinds_keeps_to_the_limit_of_the_wire(meter: WindowMeter) -> None:
    for i in range(100):
        meter.fail(f"kind{i}")
    report = meter.cut(now_s=103.0, unix_s=20.0, rss_bytes=0)
    assert report is not None
    assert (report.requests, len(report.errors)) == (100, KIND_LIMIT)
