"""What a rollout would do, told before it begins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from server.rollouts.facts import DeviceFact
from server.rollouts.forecast import Fleet, Offer, forecast
from server.rollouts.plan import parse_waves
from server.schemas.rollouts import RolloutOptions, RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC).timestamp()
OFFER = Offer("v-pi", "a" * 64, 1000)


def request(waves: str = "100%", **options: object) -> RolloutRequest:
    plan = RolloutOptions.model_validate(options)
    return RolloutRequest(model="m", version="1", waves=parse_waves(waves), options=plan)


def fleet(number: int, *, profile: str = "pi", **labels: str) -> list[DeviceFact]:
    return [DeviceFact(f"{profile}-{index}", profile, labels) for index in range(number)]


def test_forecast_counts_bytes_and_what_a_device_already_has_costs_nothing() -> None:
    devices = fleet(3) + fleet(1, profile="zero") + fleet(2, profile="new")
    offers = {"pi": OFFER, "zero": Offer(refusal="Nothing fits.")}
    running = {"pi-0": "a" * 64, "pi-1": "b" * 64}
    found = forecast(request("50%,100%"), Fleet(devices, offers, running), now=NOW)
    told = {device.device_id: device for device in found.devices}
    assert [told[name].download_bytes for name in ("pi-0", "pi-1", "pi-2", "zero-0", "new-0")] == [0, 1000, 1000, 0, 0]
    assert [name for name, device in told.items() if device.already] == ["pi-0"]
    assert (told["zero-0"].refusal, told["zero-0"].earliest_at) == ("Nothing fits.", None)
    assert told["new-1"].to_be_built
    assert found.download_bytes == sum(wave.download_bytes for wave in found.waves) == 2000
    assert [wave.devices for wave in found.waves] == [3, 3]
    assert sum(wave.to_be_built for wave in found.waves) == 2
    assert sum(wave.no_variant for wave in found.waves) == 1


def test_forecast_waves_that_end_early_name_who_is_left_out() -> None:
    found = forecast(request("2"), Fleet(fleet(5), {"pi": OFFER}), now=NOW)
    assert (len(found.devices), found.beyond) == (2, 3)


def test_forecast_start_pace_and_soak_move_what_comes_after() -> None:
    plan = request("4,100%", start_at=NOW + 100, pace_per_minute=2, soak_s=600, approve_waves=(2,))
    found = forecast(plan, Fleet(fleet(6), {"pi": OFFER}), now=NOW)
    times = [(device.earliest_at or 0) - NOW for device in found.devices]
    assert sorted(times) == [100, 100, 160, 160, 760, 760]
    assert [wave.approval for wave in found.waves] == [False, True]
    assert ((found.waves[0].earliest_at or 0) - NOW, (found.waves[0].latest_at or 0) - NOW) == (100, 160)


@pytest.mark.parametrize(("zone", "hours"), [("Europe/Berlin", 9), ("UTC", 10), ("Asia/Tokyo", 1)])
def test_forecast_window_is_that_of_the_device(zone: str, hours: int) -> None:
    found = forecast(request(window="22:00-04:00"), Fleet(fleet(2, tz=zone), {"pi": OFFER}), now=NOW)
    assert [((device.earliest_at or 0) - NOW) / 3600 for device in found.devices] == [hours, hours]


@pytest.mark.parametrize("options", [{}, {"pace_per_minute": 3}, {"window": "12:10-13:00"}, {"soak_s": 30.0}])
def test_forecast_is_what_the_engine_then_does(make_paper: Callable[..., Paper], options: dict[str, Any]) -> None:
    paper = make_paper(9)
    paper.now = NOW
    plan = request("3,6,9", **options)
    found = forecast(plan, Fleet([DeviceFact(name, "pi", {}) for name in paper.devices], {"pi": OFFER}), now=NOW)
    r = paper.start("r", waves="3,6,9", **options)
    for _ in range(1000):
        paper.tick()
        paper.all_run(r)
    rows = {row.device_id: row for row in paper.ledger.rows_of(r)}
    assert {device.device_id: device.wave for device in found.devices} == {name: row.wave for name, row in rows.items()}
    for device in found.devices:
        assert (rows[device.device_id].opened_at or 0) >= (device.earliest_at or NOW)
    assert max(row.opened_at or 0 for row in rows.values()) <= max(d.earliest_at or 0 for d in found.devices) + 20
