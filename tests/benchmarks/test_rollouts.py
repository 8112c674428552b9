"""The goals of the gates on a few simulated fleets; all 2,000 healthy ones are slow."""

from __future__ import annotations

import pytest

from benchmarks.rollouts import SCENARIOS, Scenario, misses, play

BAD = [scenario for scenario in SCENARIOS if scenario.lanes]
HEALTHY = next(scenario for scenario in SCENARIOS if not scenario.lanes)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_engine_on_simulated_fleets_stops_what_is_bad_and_nothing_else(scenario: Scenario) -> None:
    assert misses(scenario, play(scenario, runs=3, seed=100)["Shoal"]) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", BAD, ids=lambda scenario: scenario.name)
def test_engine_on_many_simulated_fleets_keeps_the_goals(scenario: Scenario) -> None:
    assert misses(scenario, play(scenario, runs=200, seed=0)["Shoal"]) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_engine_on_2000_healthy_fleets_stops_at_most_one_in_a_hundred() -> None:
    assert misses(HEALTHY, play(HEALTHY, runs=2000, seed=0)["Shoal"]) == []
