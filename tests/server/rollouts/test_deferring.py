"""Devices whose apps ask for time before a swap: what they are offered, how long that may take, what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_agent.protocol.states import DeploymentState, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

    Make = Callable[..., Paper]

SAID = "an app asked to wait until 2026-11-26T18:30:00Z: checkout running"


def updating(make_paper: Make, **options: Any) -> tuple[Paper, str, list[str]]:  # noqa: ANN401  of RolloutOptions
    """Ten devices run version 1; those of the first wave are offered version 2."""
    paper = make_paper()
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", waves="40%,100%", **{"min_inferences": 0, **options})
    paper.tick()
    return paper, new, [row.device_id for row in paper.ledger.rows_of(new) if row.wave == 0]


def defer(paper: Paper, *devices: str) -> None:
    for device in devices:
        paper.report(device, DeploymentState.STAGED, reason=Reason.DEFERRED, detail=SAID)


def test_offer_gives_apps_the_time_of_the_plan_and_none_on_the_way_back(make_paper: Make) -> None:
    paper, new, first = updating(make_paper, max_defer_s=900)
    entry = paper.wanted(first[0])
    assert entry is not None
    assert (entry.version, entry.max_defer_s) == ("2", 900)

    paper.say(new, "rollback")
    paper.tick()

    back = paper.wanted(first[0])
    assert back is not None
    assert (back.version, back.max_defer_s) == ("1", 0)


def test_devices_that_defer_are_told_with_the_reason_and_hold_their_wave(make_paper: Make) -> None:
    paper, new, first = updating(make_paper)
    for device in first[2:]:
        paper.report(device)
    defer(paper, *first[:2])
    paper.tick()

    standing = paper.ledger.standings[new]
    assert standing.wave == 0
    assert f"2 devices defer the swap (for example: {SAID})" in standing.reason
    assert paper.row(new, first[0]).detail == SAID

    for device in first[:2]:
        paper.report(device)
    paper.tick()
    paper.tick()
    assert paper.ledger.standings[new].wave == 1


def test_device_that_defers_is_stuck_only_beyond_the_plan_s_time_for_it(make_paper: Make) -> None:
    paper, new, first = updating(make_paper, max_defer_s=1000, progress_deadline_s=100, silence_deadline_s=60)
    for device in first[1:]:
        paper.report(device)
    defer(paper, first[0])
    paper.tick()
    for _ in range(20):
        defer(paper, first[0])
        paper.tick(50)
    assert paper.states(new)[first[0]] == "staged"

    for _ in range(4):
        defer(paper, first[0])
        paper.tick(50)
    assert paper.states(new)[first[0]] == "timed_out"
    assert "staged" in paper.row(new, first[0]).detail


def test_device_that_did_not_wait_longer_runs_it_and_its_words_are_kept(make_paper: Make) -> None:
    paper, new, first = updating(make_paper)
    said = "did not wait longer than 3600 s, the rollout's limit, for an app: checkout running"
    paper.report(first[0], detail=said)
    paper.tick()

    row = paper.row(new, first[0])
    assert (row.state, row.detail) == ("running", said)
