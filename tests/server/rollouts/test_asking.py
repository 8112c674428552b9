"""Lanes with no variant left, on paper: what they ask the compressor for, how they wait, and what ends that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts.facts import AskedJob, ChoiceFact, VariantFact
from server.rollouts.health import Measured, Sample
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

    Make = Callable[..., Paper]

TWO_LANES = {f"d{number}": "pi" if number % 2 else "zero" for number in range(8)}
ASK: dict[str, Any] = {"ask_compressor_s": 60, "ask_deadline_s": 1000, "other_variants": 0}


def started(
    make_paper: Make,
    devices: dict[str, str] | int = 4,
    **options: Any,  # noqa: ANN401  fields of a plan
) -> tuple[Paper, str]:
    """Every device runs version 1, and version 2, which nobody has proven, is on its way."""
    paper = make_paper(devices)
    paper.start("old")
    paper.tick()
    paper.all_run("old")
    new = paper.start("new", version="2", unproven=True, **{**ASK, **options})
    paper.tick()
    return paper, new


def offered(paper: Paper, name: str, profile: str = "pi") -> list[str]:
    rows = paper.ledger.rows_of(name)
    return [row.device_id for row in rows if row.profile == profile and row.state == "offered"]


def reject(paper: Paper, name: str, *, reason: Reason = Reason.LATENCY_LIMIT, profile: str = "pi") -> None:
    """The first device of the lane does."""
    (first,) = offered(paper, name, profile)
    paper.report(first, DeploymentState.REJECTED, reason=reason, detail="90 ms of 40")
    paper.tick()


def finds(paper: Paper, variant_id: str, *, profile: str = "pi") -> None:
    """The job of the latest ask is done: it has chosen this, with what was there before behind it."""
    before = paper.choices["2"][profile]
    found = VariantFact(variant_id, "b" * 64, 100, unproven=True, model_file_sha256="2" * 64)
    known = tuple(one for one in (before.variant, *before.others) if one is not None and one.variant_id != variant_id)
    paper.choices["2"][profile] = ChoiceFact(variant=found, others=known)
    paper.asked[paper.wishes[-1].job_id] = AskedJob("done")


def all_run_for(paper: Paper, name: str, ticks: int) -> None:
    for _ in range(ticks):
        paper.all_run(name)


def versions(paper: Paper) -> dict[str, str]:
    return {device: (paper.wanted(device) or pytest.fail(device)).version for device in paper.devices}


def test_lane_with_no_variant_left_asks_once_and_waits_while_the_others_go_on(make_paper: Make) -> None:
    paper, new = started(make_paper, TWO_LANES, waves="50%,100%")
    reject(paper, new)
    (wish,) = paper.wishes
    assert (wish.profile, wish.seconds, wish.number, wish.latency_p95_ms) == ("pi", 60, 1, None)
    assert wish.until_fits, "whatever surely meets the limit of its profile will do"
    all_run_for(paper, new, 10)
    assert len(paper.wishes) == 1, "each tick reads what a controller that was killed would read"
    assert [row.state for row in paper.ledger.rows_of(new) if row.profile == "zero"] == ["running"] * 4
    assert [row.state for row in paper.ledger.rows_of(new) if row.profile == "pi"] == ["waiting"] * 4
    assert {version for device, version in versions(paper).items() if paper.devices[device] == "pi"} == {"1"}
    told = paper.sentence("compressor_asked")
    assert "refuses 2-pi (latency_limit: 90 ms of 40); no variant is left to try" in told
    assert f"(job {wish.job_id}, ask 1 of 2, a search of 60 s): 4 devices wait until" in told
    standing = paper.ledger.standings[new]
    assert standing.state is RolloutState.RUNNING
    assert standing.reason.startswith(
        f"Every wave is open; lane pi waits for the compressor (job {wish.job_id}, queued) until 1970-"
    )
    assert "lane_stopped" not in paper.actions


def test_found_variant_goes_to_the_lane_wave_by_wave_and_the_rollout_ends_well(make_paper: Make) -> None:
    paper, new = started(make_paper, 4, waves="50%,100%")
    reject(paper, new)
    paper.tick(50)
    assert paper.ledger.standings[new].wave == 0, "everybody of the next wave waits, too"
    assert "Lane pi waits for the compressor" in paper.ledger.standings[new].reason
    finds(paper, "found")
    paper.tick()
    assert "has found found, which is unproven there; 4 devices get it" in paper.sentence("compressor_answered")
    (first,) = offered(paper, new)
    assert paper.row(new, first).wave == 0, "one goes first, in the first wave"
    assert paper.row(new, first).canary
    all_run_for(paper, new, 5)
    assert set(paper.states(new).values()) == {"running"}
    assert {row.variant_id for row in paper.ledger.rows_of(new)} == {"found"}
    assert paper.ledger.standings[new].state is RolloutState.FINISHED
    assert "stopped lanes" not in paper.ledger.standings[new].reason
    assert len(paper.wishes) == 1


@pytest.mark.parametrize(
    ("job", "outcome", "said"),
    [
        (AskedJob("failed", "The search died."), "failed", "has ended without a variant: The search died"),
        (AskedJob("cancelled", "Anna cancelled it."), "failed", "has ended without a variant: Anna cancelled it"),
        (AskedJob("done", "no variant fits pi: latency"), "nothing", "has found no variant: no variant fits pi"),
        (AskedJob("done"), "nothing", "it knows of nothing that the lane has not rejected already"),
        (AskedJob("running"), "late", "has not ended within 1000 s"),
        (None, "late", "has not ended within 1000 s"),
    ],
)
@pytest.mark.parametrize("devices", [4, TWO_LANES], ids=["one-lane", "two-lanes"])
def test_wait_that_is_in_vain_ends_with_a_sentence_and_the_lane_stays_stopped(
    make_paper: Make, job: AskedJob | None, outcome: str, said: str, devices: dict[str, str] | int
) -> None:
    paper, new = started(make_paper, devices)
    reject(paper, new)
    if job is not None:
        paper.asked[paper.wishes[0].job_id] = job
    if outcome == "late":
        paper.tick(900)
        assert "compressor_answered" not in paper.actions
        for device in paper.devices:
            paper.seen(device)
    paper.tick(200)
    all_run_for(paper, new, 4)
    assert said in paper.sentence("compressor_answered")
    standing = paper.ledger.standings[new]
    assert [one.outcome for one in standing.lane("pi").asks] == [outcome]
    assert len(paper.wishes) == 1, "a lane that was given no answer does not ask again"
    assert {version for device, version in versions(paper).items() if paper.devices[device] == "pi"} == {"1"}
    if devices == 4:
        assert standing.state is RolloutState.STOPPED
        assert said in standing.reason
    else:
        assert standing.state is RolloutState.FINISHED
        assert standing.reason.endswith("stopped lanes: pi.")
        assert said in paper.sentence("lane_stopped")
        assert [row.state for row in paper.ledger.rows_of(new) if row.profile == "zero"] == ["running"] * 4


def test_lane_asks_no_more_often_than_it_may_and_tries_what_a_search_left_over(make_paper: Make) -> None:
    paper, new = started(make_paper, ask_times=2, other_variants=1)
    reject(paper, new)
    finds(paper, "first")
    before = paper.choices["2"]["pi"]
    paper.choices["2"]["pi"] = ChoiceFact(variant=before.variant, others=(VariantFact("second", "c" * 64, 1, True),))
    paper.tick()
    reject(paper, new)
    assert "tries second next" in paper.sentence("next_variant"), "a search begins the count anew"
    reject(paper, new)
    assert [wish.number for wish in paper.wishes] == [1, 2]
    assert paper.wishes[0].seed != paper.wishes[1].seed
    assert paper.wishes[0].job_id != paper.wishes[1].job_id
    finds(paper, "third")
    paper.tick()
    reject(paper, new)
    all_run_for(paper, new, 3)
    assert len(paper.wishes) == 2
    assert set(versions(paper).values()) == {"1"}
    assert paper.ledger.standings[new].state is RolloutState.STOPPED
    assert paper.ledger.standings[new].lane("pi").rejected == ("2-pi", "first", "second")


def slow(paper: Paper, name: str, *, before_ms: tuple[float, ...] = (8.0, 12.5)) -> None:
    """All who run it have measured that it is about twice as slow as before."""
    rows = [row for row in paper.ledger.rows_of(name) if row.state == "running"]
    for number, row in enumerate(rows):
        before = Sample(200, 0, before_ms[number % len(before_ms)])
        now = Sample(200, 0, (before.p95_ms or 0.0) * (2 + number / 100))
        paper.measured[row.deployment_id] = Measured(now, before)


def test_lane_that_its_gate_took_back_for_latency_asks_for_what_devices_were_used_to(make_paper: Make) -> None:
    paper, new = started(make_paper, 12, waves="50%,100%", max_slowdown=0.1)
    paper.all_run(new)
    paper.all_run(new)
    slow(paper, new)
    paper.tick()
    assert "6 devices go back" in paper.sentence("gate_failed")
    (wish,) = paper.wishes
    assert wish.latency_p95_ms == pytest.approx(1.1 * math.sqrt(8.0 * 12.5))
    assert "with a p95 of at most 11 ms there" in paper.sentence("compressor_asked")
    assert paper.actions.index("compressor_asked") > paper.actions.index("gate_failed")
    assert "lane_stopped" not in paper.actions
    assert paper.ledger.standings[new].state is RolloutState.RUNNING
    assert set(versions(paper).values()) == {"1"}
    for device in paper.devices:
        paper.takes_up(device)
        paper.report(device)
    paper.tick()
    paper.tick()
    assert sorted(set(paper.states(new).values())) == ["rolled_back", "waiting"]
    finds(paper, "found")
    paper.tick()
    assert "12 devices get it" in paper.sentence("compressor_answered")
    assert [paper.row(new, device).wave for device in offered(paper, new)] == [0]
    all_run_for(paper, new, 6)
    assert set(paper.states(new).values()) == {"running"}
    assert paper.ledger.standings[new].state is RolloutState.FINISHED
    assert "stopped lanes" not in paper.ledger.standings[new].reason
    assert len(paper.wishes) == 1


@pytest.mark.parametrize("found", [True, False])
def test_gate_that_speaks_after_the_end_takes_the_rollout_up_again_and_it_ends_anew(
    make_paper: Make, *, found: bool
) -> None:
    paper, new = started(make_paper, 6)
    all_run_for(paper, new, 3)
    assert paper.ledger.standings[new].state is RolloutState.FINISHED
    slow(paper, new)
    paper.tick()
    assert paper.ledger.standings[new].state is RolloutState.RUNNING
    assert "Lane pi waits for the compressor" in paper.ledger.standings[new].reason
    paper.tick()
    for device in paper.devices:
        paper.takes_up(device)
        paper.report(device)
    paper.tick()
    if found:
        finds(paper, "found")
    else:
        paper.asked[paper.wishes[0].job_id] = AskedJob("failed", "It died.")
    all_run_for(paper, new, 4)
    expected = (RolloutState.FINISHED, "2") if found else (RolloutState.STOPPED, "1")
    assert (paper.ledger.standings[new].state, paper.wanted("d0").version) == expected  # type: ignore[union-attr]
    assert len(paper.wishes) == 1


@pytest.mark.parametrize("reason", [Reason.GOLDEN_MISMATCH, Reason.MEMORY_LIMIT])
def test_lane_that_rejects_for_no_latency_has_all_of_the_budget_searched(make_paper: Make, reason: Reason) -> None:
    paper, new = started(make_paper)
    reject(paper, new, reason=reason)
    (wish,) = paper.wishes
    assert not wish.until_fits, "as far as the compressor knows the one that was rejected fits"


@pytest.mark.parametrize(
    ("state", "reason", "options"),
    [
        (DeploymentState.REJECTED, Reason.LATENCY_LIMIT, {"ask_compressor_s": 0}),
        (DeploymentState.REJECTED, Reason.STORAGE_BUDGET, {}),
        (DeploymentState.FAILED, Reason.RUNNER_CRASHED, {}),
    ],
)
def test_lane_that_may_not_ask_or_that_no_file_would_help_asks_for_nothing(
    make_paper: Make, state: DeploymentState, reason: Reason, options: dict[str, Any]
) -> None:
    paper, new = started(make_paper, **options)
    paper.report(offered(paper, new)[0], state, reason=reason)
    paper.tick()
    all_run_for(paper, new, 3)
    assert paper.wishes == []
    assert paper.ledger.standings[new].state is RolloutState.STOPPED


def test_gate_that_finds_wrong_answers_asks_for_nothing(make_paper: Make) -> None:
    paper, new = started(make_paper, 6)
    all_run_for(paper, new, 2)
    for row in paper.ledger.rows_of(new):
        paper.measured[row.deployment_id] = Measured(Sample(200, 200, None), Sample(200, 0, 9.0))
    paper.tick()
    assert "gate_failed" in paper.actions
    assert paper.wishes == []


@pytest.mark.parametrize("word", ["abort", "rollback"])
@pytest.mark.parametrize("lane", ["pi", None])
def test_operator_ends_the_wait_and_what_is_found_later_reaches_nobody(
    make_paper: Make, word: str, lane: str | None
) -> None:
    paper, new = started(make_paper, TWO_LANES)
    reject(paper, new)
    paper.say(new, word, lane)
    paper.tick()
    finds(paper, "found")
    all_run_for(paper, new, 5)
    assert "found" not in {row.variant_id for row in paper.ledger.rows_of(new)}
    assert "compressor_answered" not in paper.actions
    (made,) = paper.ledger.standings[new].lane("pi").asks
    assert made.outcome == "dropped", "status must not say that it waits"
    assert {version for device, version in versions(paper).items() if paper.devices[device] == "pi"} == {"1"}
    assert len(paper.wishes) == 1


def test_rollout_that_stops_for_other_lanes_waits_for_no_compressor(make_paper: Make) -> None:
    three = {f"d{number}": ("pi", "zero", "jetson")[number % 3] for number in range(9)}
    paper, new = started(make_paper, three, max_failures=1)
    reject(paper, new)
    for profile in ("zero", "jetson"):  # proven there, so that what fails is one device and not the lane
        (first,) = offered(paper, new, profile)
        paper.report(first)
    paper.tick()
    paper.tick()
    for profile in ("zero", "jetson"):
        paper.report(offered(paper, new, profile)[0], DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.tick()
    assert paper.ledger.standings[new].state is RolloutState.STOPPED, paper.ledger.standings[new].reason
    (made,) = paper.ledger.standings[new].lane("pi").asks
    assert made.outcome == "dropped"


def test_paused_lane_takes_up_what_was_found_once_it_is_resumed(make_paper: Make) -> None:
    paper, new = started(make_paper, TWO_LANES)
    reject(paper, new)
    paper.say(new, "pause", "pi")
    paper.tick()
    finds(paper, "found")
    all_run_for(paper, new, 4)
    assert offered(paper, new) == []
    paper.say(new, "resume", "pi")
    all_run_for(paper, new, 5)
    assert set(paper.states(new).values()) == {"running"}
    assert paper.ledger.standings[new].state is RolloutState.FINISHED


def test_lane_that_waits_goes_on_waiting_though_a_build_brings_back_what_its_gate_has_stopped(make_paper: Make) -> None:
    paper, new = started(make_paper, 6)
    all_run_for(paper, new, 2)
    slow(paper, new)
    paper.tick()
    paper.tick()
    for _ in range(2):
        for device in paper.devices:
            paper.takes_up(device)
            paper.report(device)
        paper.tick()
    chosen = paper.choices["2"]["pi"]
    finds(paper, "first")
    paper.tick()
    reject(paper, new)
    assert [wish.number for wish in paper.wishes] == [1, 2]
    paper.choices["2"]["pi"] = chosen  # an operator has built once more
    for _ in range(3):
        paper.tick()
    assert set(paper.states(new).values()) == {"waiting"}
    finds(paper, "second")
    all_run_for(paper, new, 5)
    assert {(row.state, row.variant_id) for row in paper.ledger.rows_of(new)} == {("running", "second")}
