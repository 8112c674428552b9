"""The latency of a device under load: only where it has told enough, and only of single samples."""

from collections.abc import Callable

import pytest

from server.database.connect import Database
from server.telemetry.device_latency import INFERENCES, latency_p95_ms


def test_latency_of_a_device_is_that_of_all_its_windows(telemetry: Database, add_report: Callable[..., None]) -> None:
    half = INFERENCES // 2
    add_report([4.0] * half, profile="pi4", inferences=half)
    add_report([8.0] * half, profile="pi4", inferences=half)
    add_report([50.0] * INFERENCES, profile="pi3", device_id="b", inferences=INFERENCES)
    assert latency_p95_ms(telemetry, ("pi4",)) == {("v1", "a"): pytest.approx(8.0, rel=0.02)}


def test_latency_of_few_inferences_is_not_told(telemetry: Database, add_report: Callable[..., None]) -> None:
    add_report([4.0] * (INFERENCES - 1), profile="pi4", inferences=INFERENCES - 1)
    assert latency_p95_ms(telemetry, ("pi4",)) == {}


def test_windows_with_several_samples_in_a_request_are_left_out(
    telemetry: Database, add_report: Callable[..., None]
) -> None:
    add_report([4.0] * INFERENCES, profile="pi4", inferences=INFERENCES)
    add_report([900.0] * INFERENCES, profile="pi4", inferences=64 * INFERENCES)
    assert latency_p95_ms(telemetry, ("pi4",)) == {("v1", "a"): pytest.approx(4.0, rel=0.02)}
