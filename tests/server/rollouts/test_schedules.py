"""When a rollout may begin, how fast it goes, and what its waves wait for: each wait told in one sentence."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts import offering
from server.rollouts.facts import ChoiceFact
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

    Make = Callable[..., Paper]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def offered(paper: Paper, name: str) -> set[str]:
    return {row.device_id for row in paper.ledger.rows_of(name) if row.opened_at is not None}


def reason(paper: Paper, name: str) -> str:
    return paper.ledger.standings[name].reason


def test_advance_before_its_start_offers_nothing_and_says_when(make_paper: Make) -> None:
    paper = make_paper(3)
    paper.now = at("2026-11-26T11:59:00")
    r = paper.start("r", start_at=at("2026-11-26T12:00:00"))
    paper.tick()
    assert offered(paper, r) == set()
    assert reason(paper, r) == "Starts at 2026-11-26 12:00:00 UTC, not before."
    paper.tick()
    assert not paper.ledger.changed, "told once"
    paper.tick(60)
    assert len(offered(paper, r)) == 3


def test_advance_window_is_that_of_each_device(make_paper: Make) -> None:
    paper = make_paper(4)
    paper.time_zones = {"d0": "Europe/Berlin", "d1": "Asia/Tokyo", "d2": "Europe/Nowhere"}
    paper.now = at("2026-11-26T20:30:00")
    r = paper.start("r", window="22:00-04:00", time_zone="UTC")
    paper.tick()
    assert offered(paper, r) == set()
    assert reason(paper, r) == (
        "Wave 1 of 1: 0 of 4 run it, 0 are on the way; "
        "4 devices wait for the window, which opens at 2026-11-26 21:00:00 UTC first."
    )
    paper.tick(1800)
    assert offered(paper, r) == {"d0"}
    paper.tick(3600)
    assert offered(paper, r) == {"d0", "d2", "d3"}, "an unknown zone counts as none"
    paper.tick(3600 * 15)
    assert offered(paper, r) == {"d0", "d1", "d2", "d3"}


def test_advance_pace_holds_in_any_minute_and_grows_with_each_wave(make_paper: Make) -> None:
    paper = make_paper(30)
    r = paper.start("r", waves="20%,100%", pace_per_minute=2, pace_growth=3.0)
    grew = []
    for _ in range(60):
        before = len(offered(paper, r))
        paper.tick(10)
        grew.append(len(offered(paper, r)) - before)
        if "wait for the pace" in reason(paper, r):
            number = 2 if paper.ledger.standings[r].wave == 0 else 6
            assert f"for the pace of {number} a minute" in reason(paper, r)
        paper.all_run(r)
        rows = paper.ledger.rows_of(r)
        recent = sum(row.opened_at is not None and row.opened_at > paper.now - 60 for row in rows)
        assert recent <= (2 if paper.ledger.standings[r].wave == 0 else 6)
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert max(grew) == 6


def test_advance_places_are_limited_and_the_penalty_box_takes_none(make_paper: Make) -> None:
    paper = make_paper(6)
    r = paper.start("r", max_in_progress=2, retry_patience_s=1000)
    paper.tick()
    first, second = sorted(offered(paper, r))
    assert "4 devices wait for one of 2 places in progress" in reason(paper, r)
    paper.report(first, DeploymentState.FAILED, reason=Reason.TRANSFER_FAILED)
    paper.tick()
    assert len(offered(paper, r)) == 3, "who retries takes no place"
    paper.report(first, DeploymentState.DOWNLOADING)
    paper.tick()
    paper.report(second)
    paper.tick()
    assert len(offered(paper, r)) == 4
    assert sum(offering.takes_place(row) for row in paper.ledger.rows_of(r)) == 2
    for _ in range(3):
        paper.all_run(r)
    assert set(paper.states(r).values()) == {"running"}


def test_advance_soak_begins_when_nobody_is_on_the_way_and_begins_anew_when_somebody_is(make_paper: Make) -> None:
    paper = make_paper(4)
    paper.now = at("2026-11-26T12:00:00")
    r = paper.start("r", waves="2,100%", soak_s=100)
    paper.tick()
    paper.all_run(r)
    assert reason(paper, r) == (
        "Wave 1 of 2 is settled and soaks for 100 s: the next opens at 2026-11-26 12:01:42 UTC."
    )
    paper.tick(90)
    assert len(offered(paper, r)) == 2
    one = min(offered(paper, r))
    paper.report(one, serving=False)
    paper.tick(5)
    paper.report(one)
    paper.tick(5)
    paper.tick(95)
    assert len(offered(paper, r)) == 2, "it soaks from when all ran again"
    paper.tick(6)
    assert len(offered(paper, r)) == 4


def test_advance_wave_to_be_approved_waits_for_the_word_and_the_word_opens_one_wave(make_paper: Make) -> None:
    paper = make_paper(6)
    r = paper.start("r", waves="2,4,6", approve_waves=(1, 3))
    paper.tick()
    assert offered(paper, r) == set()
    assert reason(paper, r) == "Wave 1 of 3 with 2 devices waits for approval: `rollout approve r`."
    paper.tick()
    assert not paper.ledger.changed
    paper.say(r, "approve")
    paper.say(r, "approve")
    paper.tick()
    assert len(offered(paper, r)) == 2
    assert paper.actions.count("ignored") == 1, "the second word opens nothing"
    paper.all_run(r)
    assert len(offered(paper, r)) == 4
    paper.all_run(r)
    assert (
        reason(paper, r) == "Wave 3 of 3 with 2 devices waits for approval (4 run it, 0 failed): `rollout approve r`."
    )
    paper.say(r, "pause")
    paper.say(r, "approve")
    paper.tick()
    assert len(offered(paper, r)) == 4
    paper.say(r, "resume")
    paper.tick()
    assert len(offered(paper, r)) == 6
    assert paper.actions.count("approval_asked") == 2
    paper.all_run(r)
    assert paper.ledger.standings[r].state is RolloutState.FINISHED


def test_advance_wave_that_reaches_nobody_new_asks_nobody(make_paper: Make) -> None:
    paper = make_paper(1)
    r = paper.start("r", waves="1,50%,100%", approve_waves=(2, 3))
    paper.tick()
    paper.all_run(r)
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert "approval_asked" not in paper.actions


def test_advance_device_that_comes_later_joins_the_open_wave_only_where_it_may(make_paper: Make) -> None:
    paper = make_paper({"d0": "pi", "d1": "pi", "d2": "pi"})
    joining = paper.start("joining", waves="1,100%", join_later=True)
    fixed = paper.start("fixed", model="n", waves="1,100%")
    paper.tick()
    paper.devices |= {"d3": "pi", "d4": "new"}
    paper.tick()
    paper.tick()
    assert "d3" not in paper.states(fixed)
    assert "d4" not in paper.states(joining), "nobody knows what it would get"
    assert (paper.row(joining, "d3").wave, paper.actions.count("joined")) == (0, 1)
    assert paper.sentence("joined") == "1 device joins later, in wave 1."
    paper.choices["1"]["new"] = ChoiceFact(refusal="Nothing fits.")
    for _ in range(3):
        paper.all_run(joining)
    assert paper.states(joining) == {**dict.fromkeys(("d0", "d1", "d2", "d3"), "running"), "d4": "no_variant"}
    assert paper.ledger.standings[joining].state is RolloutState.FINISHED
    paper.devices["d5"] = "pi"
    paper.tick()
    assert "d5" not in paper.states(joining), "it has ended"


def test_advance_device_that_comes_later_reaches_no_lane_that_was_ended(make_paper: Make) -> None:
    paper = make_paper({"d0": "pi", "d1": "zero"})
    r = paper.start("r", join_later=True)
    paper.tick()
    paper.say(r, "abort", "pi")
    paper.devices["d2"] = "pi"
    paper.tick()
    assert "d2" not in paper.states(r)


def test_advance_rollout_with_a_higher_priority_goes_first_on_each_device(make_paper: Make) -> None:
    paper = make_paper(2)
    low = paper.start("low", model="n")
    high = paper.start("high", waves="1,100%", priority=1)
    paper.tick()
    (first,) = offered(paper, high)
    assert offered(paper, low) == set()
    assert "2 devices wait for rollout high, which has a higher priority" in reason(paper, low)
    paper.report(first)
    paper.tick()
    paper.tick()
    assert offered(paper, low) == {first}, "the other still waits for its second wave"
    paper.all_run(high)
    for _ in range(2):
        paper.all_run(low)
    assert {paper.ledger.standings[name].state for name in (high, low)} == {RolloutState.FINISHED}


def test_advance_older_rollout_of_the_model_with_a_higher_priority_is_not_overtaken(make_paper: Make) -> None:
    paper = make_paper(2)
    old = paper.start("old", priority=1)
    new = paper.start("new", version="2")
    paper.tick()
    assert (len(offered(paper, old)), len(offered(paper, new))) == (2, 0)
    for _ in range(3):
        paper.all_run(old)
    paper.all_run(new)
    assert set(paper.states(new).values()) == {"running"}, "the newest wins once the older is done"
    assert set(paper.states(old).values()) == {"superseded"}
