"""Download now, activate later: who fetches it when, what counts as ready, and what the word brings about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts import gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

    Make = Callable[..., Paper]


def staging(
    make_paper: Make,
    *,
    devices: dict[str, str] | int = 10,
    unproven: bool = False,
    **options: Any,  # noqa: ANN401  of RolloutOptions
) -> tuple[Paper, str]:
    """Devices run version 1 and are told to hold version 2 ready."""
    paper = make_paper(devices)
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    paper.tick()
    plan = {"waves": "40%,100%", "min_inferences": 0, "stage": True, "unproven": unproven, **options}
    new = paper.start("new", version="2", **plan)
    paper.tick()
    return paper, new


def names(paper: Paper, rollout: str, wave: int | None = None) -> list[str]:
    return [row.device_id for row in paper.ledger.rows_of(rollout) if wave in {None, row.wave}]


def ready(paper: Paper) -> set[str]:
    """Who is to hold something ready."""
    return {device for device in paper.devices if paper.staged(device)}


def all_lie_ready(paper: Paper) -> None:
    """First the vanguard, then the rest."""
    for _ in range(2):
        paper.lay_ready(*ready(paper))
        paper.tick()
    paper.lay_ready(*ready(paper))
    paper.tick()


def to_run(paper: Paper, version: str) -> set[str]:
    return {d for d, models in paper.ledger.wanted.items() if models["m"].version == version}


def test_rollout_that_stages_lets_every_device_fetch_it_while_all_run_what_they_ran(make_paper: Make) -> None:
    paper, new = staging(make_paper)

    assert paper.ledger.standings[new].state == "staging"
    assert paper.ledger.standings[new].wave == -1
    assert to_run(paper, "1") == set(paper.devices)
    assert len(ready(paper)) == 3, "a few of each lane go first"
    paper.lay_ready(*ready(paper))
    paper.tick()
    assert ready(paper) == set(paper.devices), "the second wave does not wait for the first"
    assert {entry.version for d in paper.devices if (entry := paper.staged(d))} == {"2"}


def test_what_a_device_runs_counts_where_it_did_while_something_lies_ready(make_paper: Make) -> None:
    paper, _ = staging(make_paper)
    all_lie_ready(paper)

    assert set(paper.states("old").values()) == {"running"}
    paper.report("d0", DeploymentState.ROLLED_BACK, reason=Reason.CRASH_LOOP)
    paper.tick()
    assert paper.states("old")["d0"] == "rolled_back"


def test_devices_that_hold_it_ready_are_told_once_as_staged_however_long_they_are_silent(make_paper: Make) -> None:
    paper, new = staging(make_paper, silence_deadline_s=60, progress_deadline_s=60)
    all_lie_ready(paper)
    for _ in range(5):
        paper.tick(100_000)

    counts = gate.count_wave(paper.ledger.rows_of(new))
    assert (counts.staged, counts.settled) == (10, False)
    standing = paper.ledger.standings[new]
    assert standing.state == "staging"
    assert standing.reason == (
        "Staging: 10 of 10 devices hold it ready; it answers nobody until `rollout activate new`."
    )
    assert paper.actions.count("staged") == 1


def test_activated_rollout_opens_its_waves_and_swaps_without_another_download(make_paper: Make) -> None:
    paper, new = staging(make_paper)
    all_lie_ready(paper)
    ids = {row.device_id: row.deployment_id for row in paper.ledger.rows_of(new)}

    paper.say(new, "activate")
    paper.tick()

    first, second = names(paper, new, 0), names(paper, new, 1)
    assert to_run(paper, "2") == set(first)
    assert {d: e.deployment_id for d in first if (e := paper.wanted(d))} == {d: ids[d] for d in first}
    assert all(paper.staged(d) is None for d in first)
    assert all(paper.staged(d) is not None for d in second)
    assert paper.sentence("activated") == "Activated by command: 10 of 10 devices hold it ready."
    for device in first:
        paper.report(device)
    paper.tick()
    paper.tick()
    assert to_run(paper, "2") == set(paper.devices)
    for device in second:
        paper.report(device)
    paper.tick()
    paper.tick()
    assert paper.ledger.standings[new].state == "finished"
    assert set(paper.states("old").values()) == {"superseded"}
    assert paper.ledger.staged == {d: {} for d in paper.devices}


def test_rollback_after_activation_brings_back_what_ran_before(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%")
    all_lie_ready(paper)
    paper.say(new, "activate")
    paper.tick()
    for device in paper.devices:
        paper.report(device)
    paper.tick()
    paper.say(new, "rollback")
    paper.tick()

    assert to_run(paper, "1") == set(paper.devices)


@pytest.mark.parametrize("word", ["abort", "rollback"])
def test_rollout_that_ends_while_it_stages_frees_the_devices_and_nobody_swaps(make_paper: Make, word: str) -> None:
    paper, new = staging(make_paper)
    all_lie_ready(paper)

    paper.say(new, word)
    paper.tick()
    paper.tick()

    assert set(paper.states(new).values()) == {"cancelled"}
    assert not any(paper.ledger.staged.values())
    assert to_run(paper, "1") == set(paper.devices)
    assert paper.ledger.standings[new].state == {"abort": "aborted", "rollback": "rolled_back"}[word]


def test_paused_staging_offers_to_nobody_and_goes_on_staging_when_resumed(make_paper: Make) -> None:
    paper, new = staging(make_paper, max_in_progress=2)
    assert len(ready(paper)) == 2
    paper.say(new, "pause")
    paper.tick()
    paper.lay_ready(*ready(paper))
    paper.tick()
    assert len(ready(paper)) == 2

    paper.say(new, "resume")
    paper.tick()

    assert paper.ledger.standings[new].state == "staging"
    assert len(ready(paper)) == 4, "who holds it ready takes no place any more"


def test_rollout_activated_while_paused_opens_once_it_is_resumed(make_paper: Make) -> None:
    paper, new = staging(make_paper)
    all_lie_ready(paper)
    paper.say(new, "pause")
    paper.tick()
    paper.say(new, "activate")
    paper.tick()
    assert to_run(paper, "2") == set()

    paper.say(new, "resume")
    paper.tick()

    assert to_run(paper, "2") == set(names(paper, new, 0))


def test_activation_at_its_time_needs_no_word_and_a_window_holds_for_the_swap_alone(make_paper: Make) -> None:
    hour = 3600.0
    paper, new = staging(make_paper, activate_at=30 * hour, window="02:00-04:00")
    assert ready(paper), "fetched at any time of the day"
    assert "it activates at 1970-01-02 06:00" in paper.ledger.standings[new].reason
    all_lie_ready(paper)

    paper.tick(30 * hour)
    assert "Activated at its time, 1970-01-02 06:00" in paper.sentence("activated")
    assert to_run(paper, "2") == set()

    paper.tick(21 * hour)
    assert to_run(paper, "2") == set(names(paper, new, 0))


def test_activation_said_twice_is_ignored_with_a_sentence(make_paper: Make) -> None:
    paper, new = staging(make_paper)
    for _ in range(2):
        paper.say(new, "activate")
        paper.tick()

    assert paper.actions.count("activated") == 1
    assert paper.sentence("ignored") == (
        "The command 'activate' changes nothing: nothing of this rollout waits to be activated."
    )


def test_device_activated_before_it_has_fetched_it_goes_on_and_is_judged_as_any_other(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%", silence_deadline_s=60)
    first = min(ready(paper))
    paper.report(first, DeploymentState.DOWNLOADING, staged=True)
    paper.tick()
    paper.say(new, "activate")
    paper.tick()

    assert to_run(paper, "2") == set(paper.devices)
    assert paper.states(new)[first] == "offered"
    paper.report(first)
    paper.tick()
    assert paper.states(new)[first] == "running"


def test_silent_device_is_no_failure_while_it_stages_and_has_its_turn_when_it_is_activated(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%", silence_deadline_s=60)
    all_lie_ready(paper)
    paper.report("d0", DeploymentState.DOWNLOADING, staged=True)
    paper.tick()
    paper.tick(100)

    assert paper.states(new)["d0"] == "timed_out"
    assert gate.count_wave(paper.ledger.rows_of(new)).timed_out == 1
    paper.lay_ready("d0")
    paper.tick()
    assert paper.states(new)["d0"] == "staged"

    paper.tick(1000)
    paper.say(new, "activate")
    paper.tick()
    assert to_run(paper, "2") == set(paper.devices)


def test_device_whose_agent_does_not_know_staging_is_told_and_fetches_it_when_activated(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%", progress_deadline_s=60)
    for _ in range(2):
        paper.lay_ready(*(ready(paper) - {"d0"}))
        paper.tick()
    for _ in range(3):
        paper.takes_up("d0")
        paper.report("d0")
        paper.tick(40)

    row = paper.row(new, "d0")
    assert (row.state, row.reason) == ("timed_out", "ignored")
    assert "staged" in paper.actions, "nobody waits for it"
    assert row.detail == (
        "is heard, but says nothing of it after 60 s: its agent may be too old to stage, and fetches it when it is "
        "activated"
    )
    paper.say(new, "activate")
    paper.tick()
    assert to_run(paper, "2") == set(paper.devices)


def test_slow_download_is_not_stuck_while_it_stages(make_paper: Make) -> None:
    paper, new = staging(make_paper, progress_deadline_s=60)
    for _ in range(10):
        for device in ready(paper):
            paper.report(device, DeploymentState.DOWNLOADING, staged=True)
        paper.tick(50)

    assert {paper.states(new)[device] for device in ready(paper)} == {"downloading"}


def test_variant_that_devices_refuse_ahead_stops_its_lane_before_anyone_swaps(make_paper: Make) -> None:
    paper, new = staging(make_paper, devices={f"d{i}": "pi" if i % 2 else "zero" for i in range(10)})
    bad = next(d for d in ready(paper) if paper.devices[d] == "zero")
    paper.report(bad, DeploymentState.REJECTED, reason=Reason.GOLDEN_MISMATCH, staged=True)
    paper.tick()

    standing = paper.ledger.standings[new]
    assert standing.state == "staging"
    assert [s for s in paper.sentences if s[0] == "lane_stopped"], paper.sentences
    zero = [d for d, profile in paper.devices.items() if profile == "zero"]
    assert ready(paper).isdisjoint(zero)
    assert ready(paper)


def test_unproven_variant_is_staged_on_one_device_of_its_lane_first_also_where_ram_holds_one_runner(
    make_paper: Make,
) -> None:
    paper, new = staging(make_paper, unproven=True)
    (first,) = ready(paper)

    paper.lay_ready(first, proven=False)
    paper.tick()
    assert ready(paper) == set(paper.devices)
    for device in paper.devices:
        paper.lay_ready(device, proven=False)
    paper.tick()

    paper.say(new, "activate")
    paper.tick()
    assert len(to_run(paper, "2")) == 1, "no device has proven it: one goes first"


def test_newer_rollout_takes_the_place_of_what_lies_ready(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%")
    all_lie_ready(paper)
    paper.start("newest", version="3", waves="100%", stage=True)
    paper.tick()
    assert len(ready(paper)) == 10
    all_lie_ready(paper)

    assert set(paper.states(new).values()) == {"superseded"}
    assert {entry.version for d in paper.devices if (entry := paper.staged(d))} == {"3"}


def test_newer_rollout_that_does_not_stage_runs_and_ends_what_lay_ready(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%")
    all_lie_ready(paper)
    fix = paper.start("fix", version="3", waves="100%")
    paper.tick()

    assert to_run(paper, "3") == set(paper.devices)
    assert set(paper.states(new).values()) == {"superseded"}
    assert not any(paper.ledger.staged.values())
    assert set(paper.states(fix).values()) == {"offered"}


def test_older_rollout_goes_on_beside_what_a_newer_one_lays_ready(make_paper: Make) -> None:
    paper = make_paper()
    old = paper.start("old", waves="50%,100%", min_inferences=0)
    paper.tick()
    paper.start("new", version="2", waves="100%", stage=True, min_inferences=0)
    paper.tick()
    for device in names(paper, old, 0):
        paper.report(device)
    all_lie_ready(paper)

    assert to_run(paper, "1") == set(paper.devices)
    assert ready(paper) == set(paper.devices)


def test_removed_device_holds_nothing_ready(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%")
    all_lie_ready(paper)
    paper.removed.add("d3")
    paper.tick()

    assert paper.staged("d3") is None
    assert paper.states(new)["d3"] == "cancelled"


def test_device_that_failed_while_it_staged_is_not_activated_and_frees_its_files_at_the_end(make_paper: Make) -> None:
    paper, new = staging(make_paper, waves="100%", max_failures=1)
    all_lie_ready(paper)
    paper.report("d0", DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED, staged=True)
    paper.tick()
    paper.say(new, "activate")
    paper.tick()
    assert to_run(paper, "2") == set(paper.devices) - {"d0"}
    for device in set(paper.devices) - {"d0"}:
        paper.report(device)
    paper.tick()
    paper.tick()

    assert paper.ledger.standings[new].state == "finished"
    assert paper.states(new)["d0"] == "failed"
    assert paper.staged("d0") is None
