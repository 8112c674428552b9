"""What devices measured, as a ratio to this host: nothing that one of them says moves it far."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from compressors.building.device_ratios import SPREAD, device_ratios, kind_of
from compressors.contract import DeviceFigure, HostRun
from edge_agent.protocol.profile import Delegate, RuntimeName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from compressors.building.device_ratios import DeviceRatio, Kind


HERE = "Intel(R) N100"


def figure(
    variant: str, p95_ms: float, *, step: str = "static-int8", profile: str = "far", cpu_model: str = HERE
) -> DeviceFigure:
    run = HostRun(
        cpu_model=cpu_model, runtime=RuntimeName.LITERT, delegate=Delegate.XNNPACK, last_step=step, p50_ms=2.0
    )
    return DeviceFigure(profile=profile, variant_id=variant, p95_ms=p95_ms, host=run)


def ratios(figures: Iterable[DeviceFigure], host_cpu_model: str | None = HERE) -> dict[Kind, DeviceRatio]:
    return device_ratios(figures, "far", host_cpu_model=host_cpu_model)


INT8 = kind_of(RuntimeName.LITERT, Delegate.XNNPACK, "static-int8")
FLOAT = kind_of(RuntimeName.LITERT, Delegate.XNNPACK, "export-litert")
SEVEN = [figure(f"v{i}", 2.0 * ratio) for i, ratio in enumerate((7.4, 7.8, 7.9, 8.0, 8.2, 8.3, 8.8))]


def test_ratio_is_the_median_of_the_variants_of_each_kind() -> None:
    found = ratios([*SEVEN, figure("f", 6.0, step="export-litert"), figure("o", 400.0, profile="other")])
    assert set(found) == {INT8, FLOAT}
    assert {kind: one.value for kind, one in found.items()} == pytest.approx({INT8: 8.0, FLOAT: 3.0})
    assert (found[INT8].variants, found[FLOAT].variants) == (7, 1)


def test_interval_of_one_variant_is_wider_than_the_published_model_and_of_many_narrower() -> None:
    one, many = (ratios(part)[INT8] for part in (SEVEN[:1], SEVEN))
    assert one.high / one.value > SPREAD
    assert 1.1 <= many.high / many.value < SPREAD
    assert many.low * many.high == pytest.approx(many.value**2)


def test_many_devices_of_one_variant_weigh_as_one() -> None:
    crowd = [figure("v0", 100.0)] * 50
    assert ratios([*SEVEN, *crowd])[INT8].value < 8.3


@pytest.mark.parametrize("p95_ms", [math.nan, math.inf, 0.0, -3.0, 1e9, 1e-9])
def test_figure_that_can_not_be_true_is_left_out(p95_ms: float) -> None:
    assert ratios([figure("liar", p95_ms)]) == {}
    assert ratios([*SEVEN, figure("liar", p95_ms)]) == ratios(SEVEN)


def test_outlier_among_many_moves_the_ratio_and_its_interval_little() -> None:
    honest, found = (ratios(part)[INT8] for part in (SEVEN, [*SEVEN, figure("liar", 3000.0)]))
    assert found.value == pytest.approx(honest.value, rel=0.03)
    assert found.high == pytest.approx(honest.high, rel=0.15)


@pytest.mark.parametrize("elsewhere", ["Intel(R) Xeon(R) Gold 6338", None])
def test_what_a_host_with_another_cpu_measured_is_never_mixed_in(elsewhere: str | None) -> None:
    theirs = [figure(f"x{i}", 2.0 * 40.0, cpu_model="Intel(R) Xeon(R) Gold 6338") for i in range(9)]
    assert ratios([*SEVEN, *theirs]) == ratios(SEVEN)
    assert ratios(SEVEN, elsewhere) == {}
