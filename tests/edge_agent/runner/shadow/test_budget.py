"""The token bucket: whatever a request costs, the share is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.runner.shadow.budget import BURST_S, CpuBudget


def test_budget_that_is_fresh_lets_a_request_run_and_then_waits_for_what_it_cost() -> None:
    budget = CpuBudget(0.2, now_s=100.0, cpu_s=5.0)
    assert budget.wait_s(now_s=100.0, cpu_s=5.0) == 0.0

    assert budget.wait_s(now_s=101.0, cpu_s=6.0) == pytest.approx(3.0), "1 s of CPU, 0.4 s were there, 0.2 s a second"

    assert budget.wait_s(now_s=103.9, cpu_s=6.0) == pytest.approx(0.1)
    assert budget.wait_s(now_s=104.1, cpu_s=6.0) == 0.0


def test_budget_that_was_idle_for_long_saves_up_no_more_than_a_burst() -> None:
    budget = CpuBudget(0.5, now_s=0.0, cpu_s=0.0)
    assert budget.wait_s(now_s=10_000.0, cpu_s=0.0) == 0.0
    assert budget.wait_s(now_s=10_000.0, cpu_s=1.0) == pytest.approx(2 * (1.0 - 0.5 * BURST_S))


def test_budget_whose_clock_goes_back_waits_no_longer_for_it() -> None:
    budget = CpuBudget(0.5, now_s=100.0, cpu_s=0.0)
    assert budget.wait_s(now_s=50.0, cpu_s=0.0) == 0.0


@given(share=st.floats(0.01, 1.0), costs=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60))
def test_budget_keeps_the_share_over_any_time(share: float, costs: list[float]) -> None:
    now_s = cpu_s = 0.0
    budget = CpuBudget(share, now_s=now_s, cpu_s=cpu_s)
    for cost_s in costs:
        now_s += budget.wait_s(now_s=now_s, cpu_s=cpu_s)
        assert cpu_s <= share * (now_s + BURST_S) + 1e-6, "before a request runs, the debt of the last is paid"
        cpu_s += cost_s
        now_s += cost_s
