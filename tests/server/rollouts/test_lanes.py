"""Lanes that go their own way: words said to one of them, tries after a failure, and the next variant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts.facts import ChoiceFact, VariantFact
from server.rollouts.retrying import RETRY_CAP_S, back_off_s
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

    Make = Callable[..., Paper]

TWO_LANES = {f"d{number}": "pi" if number % 2 else "zero" for number in range(8)}


def states(paper: Paper, name: str, profile: str) -> list[str]:
    return [row.state for row in paper.ledger.rows_of(name) if row.profile == profile]


def version(paper: Paper, device: str) -> str | None:
    entry = paper.wanted(device)
    return entry.version if entry else None


def with_old_version(paper: Paper) -> None:
    paper.start("old")
    paper.tick()
    paper.all_run("old")


def test_pause_of_a_lane_holds_no_other_and_once_resumed_it_catches_up_wave_by_wave(make_paper: Make) -> None:
    paper = make_paper(TWO_LANES)
    r = paper.start("r", waves="50%,100%")
    paper.say(r, "pause", "pi")
    paper.say(r, "pause", "pi")
    for _ in range(5):
        paper.tick()
        paper.all_run(r)
    assert states(paper, r, "zero") == ["running"] * 4
    assert states(paper, r, "pi") == ["waiting"] * 4
    assert paper.ledger.standings[r].reason == (
        "Every wave is open; 4 devices wait in lane pi, which is paused: `rollout resume r --profile pi`."
    )
    paper.say(r, "resume", "pi")
    paper.tick()
    offered = [row for row in paper.ledger.rows_of(r) if row.profile == "pi" and row.state == "offered"]
    assert {row.wave for row in offered} == {0}, "its second wave waits for its first"
    for _ in range(3):
        paper.all_run(r)
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert set(paper.states(r).values()) == {"running"}


def test_rollback_of_a_lane_leaves_the_others_and_nothing_comes_to_rest_on_it_again(make_paper: Make) -> None:
    paper = make_paper(TWO_LANES)
    with_old_version(paper)
    r = paper.start("r", version="2", waves="50%,100%")
    paper.tick()
    paper.all_run(r)
    paper.say(r, "rollback", "pi")
    paper.say(r, "rollback", "pi")
    paper.tick()
    assert {version(paper, d) for d, profile in TWO_LANES.items() if profile == "pi"} == {"1"}
    for _ in range(4):
        for device in TWO_LANES:
            paper.takes_up(device)
            paper.report(device)
        paper.tick()
    assert set(states(paper, r, "zero")) == {"running"}
    assert set(states(paper, r, "pi")) <= {"rolled_back", "cancelled"}
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert paper.actions.count("rollback") == 1
    assert paper.actions.count("ignored") == 1
    newer = paper.start("newer", version="3")
    paper.tick()
    paper.say(newer, "rollback")
    paper.tick()
    assert {version(paper, d) for d, profile in TWO_LANES.items() if profile == "pi"} == {"1"}
    assert {version(paper, d) for d, profile in TWO_LANES.items() if profile == "zero"} == {"2"}


def test_abort_of_a_lane_ends_it_where_it_is(make_paper: Make) -> None:
    paper = make_paper(TWO_LANES)
    r = paper.start("r", waves="50%,100%")
    paper.tick()
    paper.say(r, "abort", "pi")
    paper.tick()
    assert set(states(paper, r, "pi")) == {"cancelled"}
    for _ in range(3):
        paper.all_run(r)
    assert set(states(paper, r, "zero")) == {"running"}
    assert "Lane pi is aborted by command" in paper.sentence("abort")
    assert paper.ledger.standings[r].state is RolloutState.FINISHED


def test_retry_offers_again_to_the_failed_and_silent_alone_as_another_attempt(make_paper: Make) -> None:
    paper = make_paper(4)
    r = paper.start("r", max_failures=4, silence_deadline_s=30)
    paper.tick()
    first = {device: row.deployment_id for device in paper.devices for row in [paper.row(r, device)]}
    paper.report("d0")
    paper.report("d1", DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.report("d2", DeploymentState.REJECTED, reason=Reason.LATENCY_LIMIT)
    paper.tick(31)
    assert paper.states(r) == {"d0": "running", "d1": "failed", "d2": "rejected", "d3": "timed_out"}
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    paper.say(r, "retry")
    paper.say(r, "retry")
    paper.tick()
    assert paper.states(r) == {"d0": "running", "d1": "offered", "d2": "rejected", "d3": "offered"}
    assert [paper.row(r, device).deployment_id != first[device] for device in sorted(first)] == [
        False,
        True,
        False,
        True,
    ]
    assert paper.actions.count("ignored") == 1, "there was nobody left for the second word"
    paper.report("d1")
    paper.report("d3")
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert list(paper.states(r).values()).count("running") == 3


def test_failed_device_is_tried_again_after_a_rest_with_its_old_version_meanwhile(make_paper: Make) -> None:
    paper = make_paper(2)
    with_old_version(paper)
    r = paper.start("r", version="2", max_retries=2, retry_first_s=60.0)
    paper.tick()
    paper.report("d0")
    for number in (1, 2):
        paper.report("d1", DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
        paper.tick()
        assert paper.states(r)["d1"] == "waiting"
        assert f"try {number} of 2 after the failure begins at 1970" in paper.row(r, "d1").detail
        assert version(paper, "d1") == "1"
        assert "1 device that failed is tried again, the first at 1970" in paper.ledger.standings[r].reason
        paper.tick(60 * number)
        assert version(paper, "d1") == "2"
    paper.report("d1", DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.tick()
    assert paper.states(r)["d1"] == "failed", "the tries are used up"
    assert paper.actions.count("retry") == 2


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_back_off_doubles_up_to_its_cap_and_is_spread_over_the_upper_half(chance: float) -> None:
    rests = [back_off_s(60, retries=number, chance=chance) for number in range(40)]
    assert 30 <= rests[0] < 60
    assert rests[1] == 2 * rests[0]
    assert RETRY_CAP_S / 2 <= rests[-1] < RETRY_CAP_S


def others(paper: Paper, profile: str, *names: str, caveat: str = "") -> None:
    chosen = paper.choices["2"][profile].variant
    assert chosen is not None
    found = tuple(
        VariantFact(name, "b" * 64, 100, unproven=True, caveat=caveat, model_file_sha256="2" * 64) for name in names
    )
    paper.choices["2"][profile] = ChoiceFact(variant=chosen, others=found)


def test_lane_that_rejects_its_variant_tries_the_next_and_never_one_already_rejected(make_paper: Make) -> None:
    paper = make_paper(TWO_LANES)
    with_old_version(paper)
    r = paper.start("r", version="2", unproven=True, other_variants=2)
    others(paper, "pi", "second", "third", "fourth")
    tried = []
    paper.tick()
    for _ in range(3):
        (first,) = [row for row in paper.ledger.rows_of(r) if row.profile == "pi" and row.state == "offered"]
        tried.append(first.variant_id)
        paper.report(first.device_id, DeploymentState.REJECTED, reason=Reason.LATENCY_LIMIT, detail="90 ms of 40")
        paper.tick()
    assert tried == ["2-pi", "second", "third"]
    assert paper.actions.count("next_variant") == 2
    assert "Lane pi: " in paper.sentence("next_variant")
    assert "tries second next, 1 more variant may follow" in paper.sentence("next_variant")
    assert paper.actions.count("lane_stopped") == 1, "no fourth: that was not allowed"
    for _ in range(4):
        paper.all_run(r)
    assert set(states(paper, r, "zero")) == {"running"}
    assert {version(paper, d) for d, profile in TWO_LANES.items() if profile == "pi"} == {"1"}


def test_lane_that_tries_a_variant_which_may_lose_much_says_so(make_paper: Make) -> None:
    paper = make_paper(TWO_LANES)
    with_old_version(paper)
    r = paper.start("r", version="2", unproven=True)
    others(paper, "pi", "pruned", caveat="may lose 0.0712 of top1")
    paper.tick()
    (first,) = [row for row in paper.ledger.rows_of(r) if row.profile == "pi" and row.state == "offered"]
    paper.report(first.device_id, DeploymentState.REJECTED, reason=Reason.LATENCY_LIMIT, detail="90 ms of 40")
    paper.tick()
    assert "tries pruned next (it may lose 0.0712 of top1), 1 more variant may" in paper.sentence("next_variant")


def test_lane_goes_on_with_the_next_variant_to_its_end_and_who_runs_the_first_keeps_it(make_paper: Make) -> None:
    paper = make_paper({"d0": "pi", "d1": "pi", "d2": "pi"})
    r = paper.start("r", version="2")
    others(paper, "pi", "second")
    paper.tick()
    paper.report("d0")
    paper.tick()
    paper.report("d1", DeploymentState.REJECTED, reason=Reason.GOLDEN_MISMATCH)
    paper.tick()
    for _ in range(4):
        paper.all_run(r)
    assert [paper.row(r, device).variant_id for device in ("d0", "d1", "d2")] == ["2-pi", "second", "second"]
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert set(paper.states(r).values()) == {"running"}


def test_lane_whose_variant_crashes_is_given_no_other(make_paper: Make) -> None:
    paper = make_paper({"d0": "pi", "d1": "zero"})
    paper.start("r", version="2", unproven=True)
    others(paper, "pi", "second")
    paper.tick()
    paper.report("d0", DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.tick()
    assert "next_variant" not in paper.actions
    assert "lane_stopped" in paper.actions
