from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts import gate
from server.rollouts.facts import ChoiceFact
from server.schemas.rollouts import RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

    Make = Callable[..., Paper]


def offered(paper: Paper, name: str) -> set[str]:
    return {row.device_id for row in paper.ledger.rows_of(name) if row.opened_at is not None}


def wave(paper: Paper, name: str, index: int) -> list[str]:
    return sorted(row.device_id for row in paper.ledger.rows_of(name) if row.wave == index)


def test_advance_healthy_fleet_opens_wave_after_wave_and_finishes(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r", waves="10%,50%,100%")
    for reached in (1, 5, 10):
        paper.tick()
        assert len(offered(paper, r)) == reached
        paper.tick()
        assert len(offered(paper, r)) == reached, "nobody new before the wave runs"
        paper.all_run(r)
    assert set(paper.states(r).values()) == {"running"}
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert paper.actions == ["planned", "wave_opened", "wave_opened", "wave_opened", "finished"]
    assert paper.sentence("finished").startswith("Finished: 10 of 10 devices run m@1")


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"serving": False}, "nothing serves"),
        ({"file_sha256": "9" * 64}, "not 111111111111"),
        ({"file_sha256": None}, "unknown"),
        ({"self_test": None}, "no self-test"),
        ({"inferences": 4}, "answered 4 of 5"),
        ({"state": DeploymentState.STAGED}, ""),
    ],
)
def test_advance_device_not_verified_holds_the_wave(make_paper: Make, changes: dict[str, object], lacking: str) -> None:
    paper = make_paper()
    r = paper.start("r", waves="1,100%", probe_inferences=5)
    paper.tick()
    (first,) = offered(paper, r)
    paper.report(first, **{"inferences": 5, **changes})  # type: ignore[arg-type]  # fields of any type
    paper.tick()
    assert offered(paper, r) == {first}
    assert paper.states(r)[first] != "running"
    assert lacking in paper.row(r, first).detail
    paper.report(first, inferences=5)
    paper.tick()
    assert len(offered(paper, r)) == 10


def test_advance_running_device_that_loses_its_runner_is_not_running_until_it_is_back(make_paper: Make) -> None:
    paper = make_paper(1)
    r = paper.start("r")
    paper.tick()
    paper.all_run(r)
    paper.report("d0", serving=False)
    paper.tick()
    assert paper.states(r) == {"d0": "active"}
    paper.report("d0")
    paper.tick()
    assert paper.states(r) == {"d0": "running"}
    assert paper.ledger.standings[r].state is RolloutState.FINISHED


def test_advance_failure_beyond_the_threshold_stops_and_the_failed_go_back(make_paper: Make) -> None:
    paper = make_paper()
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", waves="40%,100%")
    paper.tick()
    good, bad, busy, quiet = wave(paper, new, 0)
    paper.report(good)
    paper.report(bad, DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.report(busy, DeploymentState.DOWNLOADING)
    paper.tick()
    assert paper.ledger.standings[new].state is RolloutState.STOPPED
    assert f"{bad}: runner_crashed" in paper.sentence("stopped")
    assert "1 of 4 devices of wave 1 in lane pi failed, 0 are allowed" in paper.sentence("stopped")
    assert [(paper.wanted(d) or pytest.fail(d)).version for d in (good, bad, busy, quiet)] == ["2", "1", "1", "1"]
    assert paper.states(new)[bad] == "failed"
    assert {paper.states(new)[d] for d in wave(paper, new, 1)} == {"cancelled"}
    for device in (bad, busy, quiet):
        paper.report(device)
    paper.tick()
    assert {paper.states(old)[d] for d in (bad, busy, quiet)} == {"running"}
    assert paper.states(old)[good] == "superseded"
    assert offered(paper, new) == {good, bad, busy, quiet}
    # the one that ran fails later: it goes back too, though the rollout stands still
    paper.report(good, DeploymentState.ROLLED_BACK, reason=Reason.CRASH_LOOP)
    paper.tick()
    assert (paper.wanted(good) or pytest.fail("nothing")).version == "1"


def test_advance_failures_within_the_threshold_let_the_next_wave_open(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r", waves="50%,100%", max_failures=2)
    paper.tick()
    first, second, *others = wave(paper, r, 0)
    for device in (first, second):
        paper.report(device, DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    for device in others:
        paper.report(device)
    paper.tick()
    assert len(offered(paper, r)) == 10
    assert paper.ledger.standings[r].state is RolloutState.RUNNING


@pytest.mark.parametrize("reason", [Reason.TRANSFER_FAILED, Reason.OBJECT_NOT_FOUND, Reason.DISK_FULL], ids=str)
def test_advance_device_that_tries_again_is_no_failure_until_its_patience_is_over(
    make_paper: Make, reason: Reason
) -> None:
    paper = make_paper()
    r = paper.start("r", waves="20%,100%", retry_patience_s=300)
    paper.tick()
    trying, other = wave(paper, r, 0)
    paper.report(other)
    failed, again = DeploymentState.FAILED, DeploymentState.DOWNLOADING
    for state, shown in ((failed, "retrying"), (again, "downloading"), (failed, "retrying"), (failed, "retrying")):
        paper.report(trying, state, reason=reason if state is failed else Reason.NONE, detail="no route")
        paper.tick(70)
        assert paper.states(r)[trying] == shown
        assert len(offered(paper, r)) == 2, "it holds its wave"
        assert paper.ledger.standings[r].state is RolloutState.RUNNING
    assert "no route; it tries again" in paper.row(r, trying).detail
    paper.report(trying, failed, reason=reason, detail="no route")
    paper.tick(70 + 30)
    assert paper.ledger.standings[r].state is RolloutState.STOPPED
    assert f"{trying}: {reason}, no route (tried for more than 300 s)" in paper.sentence("stopped")


def test_advance_device_whose_second_try_succeeds_has_never_failed(make_paper: Make) -> None:
    paper = make_paper(1)
    r = paper.start("r", retry_patience_s=60)
    paper.tick()
    paper.report("d0", DeploymentState.FAILED, reason=Reason.TRANSFER_FAILED)
    paper.tick(50)
    paper.report("d0", DeploymentState.VERIFYING)
    paper.tick(50)
    assert paper.row(r, "d0").retrying_since is None
    paper.report("d0", DeploymentState.FAILED, reason=Reason.DISK_FULL)
    paper.tick(50)
    assert paper.states(r) == {"d0": "retrying"}, "its patience began anew: the bytes had come"
    paper.all_run(r)
    assert paper.sentence("wave_opened") == "Wave 1 of 1 opens for 1 device."
    assert paper.sentence("finished").startswith("Finished: 1 of 1 devices run m@1, 0 failed")


def test_advance_device_that_falls_silent_while_it_tries_is_lost(make_paper: Make) -> None:
    paper = make_paper(1)
    r = paper.start("r", retry_patience_s=3600, silence_deadline_s=60)
    paper.tick()
    paper.report("d0", DeploymentState.FAILED, reason=Reason.TRANSFER_FAILED)
    paper.tick(59)
    assert paper.states(r) == {"d0": "retrying"}
    paper.tick(3)
    assert (paper.row(r, "d0").state, paper.row(r, "d0").reason) == ("timed_out", "lost")
    assert paper.ledger.standings[r].state is RolloutState.STOPPED


@pytest.mark.parametrize("reason", [Reason.RUNNER_CRASHED, Reason.RUNNER_HUNG, Reason.INTERNAL], ids=str)
def test_advance_failure_that_speaks_against_the_variant_counts_at_once(make_paper: Make, reason: Reason) -> None:
    paper = make_paper(1)
    r = paper.start("r")
    paper.tick()
    paper.report("d0", DeploymentState.FAILED, reason=reason)
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.STOPPED


def test_advance_silent_devices_time_out_and_do_not_hold_the_wave(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r", waves="20%,100%", silence_deadline_s=60)
    paper.tick()
    quiet, other = wave(paper, r, 0)
    paper.report(other)
    paper.tick(59)
    assert len(offered(paper, r)) == 2
    paper.tick(2)
    assert (paper.row(r, quiet).state, paper.row(r, quiet).reason) == ("timed_out", "silent")
    assert len(offered(paper, r)) == 10
    # it comes back
    paper.report(quiet)
    paper.tick()
    assert paper.states(r)[quiet] == "running"


def test_advance_device_lost_after_it_took_the_offer_counts_as_a_failure(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r", waves="20%,100%", silence_deadline_s=60)
    paper.tick()
    lost, other = wave(paper, r, 0)
    paper.report(lost, DeploymentState.SELF_TESTING)
    paper.report(other)
    paper.tick(120)
    assert paper.ledger.standings[r].state is RolloutState.STOPPED
    assert f"{lost}: lost" in paper.sentence("stopped")


def test_advance_deadline_shorter_than_the_reporting_interval_calls_nobody_lost(make_paper: Make) -> None:
    paper = make_paper(2)
    paper.status_interval_s = 60
    r = paper.start("r", silence_deadline_s=10)
    paper.tick()
    paper.report("d0", DeploymentState.DOWNLOADING)
    paper.tick(100)
    assert (paper.row(r, "d0").state, paper.row(r, "d1").state) == ("downloading", "timed_out")
    paper.tick(21)
    assert paper.row(r, "d0").reason == "lost"


@pytest.mark.parametrize(
    "said", [DeploymentState.DOWNLOADING, DeploymentState.SELF_TESTING, DeploymentState.ACTIVE], ids=str
)
def test_advance_device_that_comes_no_further_is_stuck_and_counts_as_a_failure(
    make_paper: Make, said: DeploymentState
) -> None:
    paper = make_paper()
    r = paper.start("r", waves="20%,100%", max_failures=1, progress_deadline_s=600)
    paper.tick()
    stuck, other = wave(paper, r, 0)
    paper.report(other)
    paper.report(stuck, said, serving=False)
    for _ in range(11):
        paper.tick(60)
        paper.report(stuck, said, serving=False)
    assert (paper.row(r, stuck).state, paper.row(r, stuck).reason) == (str(said), "none")
    assert len(offered(paper, r)) == 2
    paper.tick(60)
    assert (paper.row(r, stuck).state, paper.row(r, stuck).reason) == ("timed_out", "stuck")
    assert f"was {said}" in paper.row(r, stuck).detail
    assert gate.count_wave(row for row in paper.ledger.rows_of(r) if row.wave == 0).failed == 1
    assert len(offered(paper, r)) == 10
    # it stays so for as long as it says the same, and counts once it runs
    paper.report(stuck, said, serving=False)
    paper.tick(60)
    assert paper.row(r, stuck).reason == "stuck"
    assert not paper.ledger.changed
    paper.report(stuck)
    paper.tick()
    assert paper.states(r)[stuck] == "running"


def test_advance_device_that_goes_on_slowly_is_not_stuck(make_paper: Make) -> None:
    paper = make_paper(1)
    r = paper.start("r", progress_deadline_s=600)
    paper.tick()
    for state in (DeploymentState.DOWNLOADING, DeploymentState.VERIFYING, DeploymentState.SELF_TESTING):
        paper.report("d0", state)
        paper.tick()
        for _ in range(9):
            paper.tick(60)
            paper.report("d0", state)
        paper.tick()
        assert paper.states(r)["d0"] == str(state)
    # one that ran for long, and whose runner starts again, has its time too
    paper.report("d0")
    paper.tick()
    paper.tick(5000)
    paper.report("d0", serving=False)
    paper.tick()
    assert paper.states(r)["d0"] == "active"


def test_advance_device_that_is_heard_and_ignores_the_offer_holds_no_wave(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r", waves="20%,100%", progress_deadline_s=600)
    paper.tick()
    deaf, other = wave(paper, r, 0)
    paper.report(other)
    for _ in range(12):
        paper.seen(deaf)
        paper.tick(60)
    assert (paper.row(r, deaf).state, paper.row(r, deaf).reason) == ("timed_out", "ignored")
    assert len(offered(paper, r)) == 10


def test_advance_registry_that_can_not_read_a_manifest_calls_nobody_stuck(make_paper: Make) -> None:
    paper = make_paper(1)
    r = paper.start("r", progress_deadline_s=600)
    choice = paper.choices["1"]["pi"].variant
    assert choice is not None
    paper.choices["1"]["pi"] = ChoiceFact(variant=replace(choice, model_file_sha256=None))
    paper.tick()
    for _ in range(12):
        paper.report("d0")
        paper.tick(60)
    assert paper.states(r)["d0"] == "active"


def test_advance_refused_profile_is_counted_apart_and_holds_nothing(make_paper: Make) -> None:
    paper = make_paper({"a": "pi", "b": "zero", "c": "zero"})
    r = paper.start("r", waves="1,2,3")
    paper.choices["1"]["zero"] = ChoiceFact(refusal="Needs 9 MB, 4 MB are allowed.")
    for _ in range(4):
        paper.tick()
        paper.all_run(r)
    assert paper.states(r) == {"a": "running", "b": "no_variant", "c": "no_variant"}
    assert paper.row(r, "b").detail == "Needs 9 MB, 4 MB are allowed."
    assert paper.sentence("finished").endswith("0 failed, 0 timed out, 2 have no variant.")
    assert paper.wanted("b") is None


def test_advance_missing_choice_keeps_preparing_and_a_failed_build_stops(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r")
    chosen = paper.choices.pop("1")
    paper.tick()
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.PREPARING
    assert "pi are being built" in paper.ledger.standings[r].reason
    paper.build_failures["pi"] = "The archive holds no graph."
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.STOPPED
    assert paper.sentence("stopped").endswith("for pi: The archive holds no graph.")
    paper.choices["1"] = chosen
    paper.tick()
    assert not offered(paper, r)


def test_advance_unproven_lane_offers_one_first_and_the_rest_after_its_self_test(make_paper: Make) -> None:
    paper = make_paper({f"p{i}": "pi" for i in range(4)} | {f"z{i}": "zero" for i in range(4)})
    r = paper.start("r")
    chosen = paper.choices["1"]["pi"].variant
    assert chosen is not None
    paper.choices["1"]["pi"] = ChoiceFact(variant=replace(chosen, unproven=True))
    paper.tick()
    (first,) = (device for device in offered(paper, r) if device.startswith("p"))
    assert {device for device in offered(paper, r) if device.startswith("z")} == {"z0", "z1", "z2", "z3"}
    paper.report(first, DeploymentState.SELF_TESTING)
    paper.tick()
    assert len(offered(paper, r)) == 5
    paper.report(first, DeploymentState.ACTIVE, serving=False)
    paper.tick()
    assert len(offered(paper, r)) == 8
    assert paper.actions.count("lane_first") == paper.actions.count("lane_proven") == 1


def test_advance_canary_that_refuses_stops_its_lane_and_no_other(make_paper: Make) -> None:
    paper = make_paper({f"p{i}": "pi" for i in range(4)} | {f"z{i}": "zero" for i in range(4)})
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    r = paper.start("r", version="2", waves="50%,100%", unproven=True)
    paper.choices["2"]["zero"] = ChoiceFact(variant=paper.choices["1"]["zero"].variant)
    paper.tick()
    (canary,) = (device for device in offered(paper, r) if device.startswith("p"))
    paper.report(canary, DeploymentState.REJECTED, reason=Reason.LATENCY_LIMIT, detail="p95 61 ms, 40 allowed")
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.RUNNING
    assert f"{canary} refuses 2-pi (latency_limit: p95 61 ms, 40 allowed); 3 other devices" in paper.sentence(
        "lane_stopped"
    )
    assert (paper.wanted(canary) or pytest.fail("nothing")).version == "1"
    for _ in range(3):
        for device in offered(paper, r) - {canary}:
            paper.report(device, file_sha256="1" * 64)
        paper.tick()
    states = paper.states(r)
    assert states.pop(canary) == "rejected"
    assert {device: state for device, state in states.items() if device.startswith("p")} == {
        f"p{i}": "cancelled" for i in range(4) if f"p{i}" != canary
    }
    assert {state for device, state in states.items() if device.startswith("z")} == {"running"}
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert paper.actions.count("lane_stopped") == 1


def two_lanes(make_paper: Make, *, max_failures: int = 0) -> tuple[Paper, str]:
    """Version 1 runs on four `pi` and four `zero`; version 2, which fits both, is offered to six of them first."""
    paper = make_paper({f"p{i}": "pi" for i in range(4)} | {f"z{i}": "zero" for i in range(4)})
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    r = paper.start("r", version="2", waves="6,8", max_failures=max_failures)
    paper.tick()
    assert len(offered(paper, r)) == 6, "at least two of each"
    return paper, r


def test_advance_proven_variant_that_fails_stops_its_lane_and_no_other(make_paper: Make) -> None:
    paper, r = two_lanes(make_paper)
    good, bad, *busy = sorted(device for device in offered(paper, r) if device.startswith("p"))
    paper.report(good)
    paper.tick()
    paper.report(bad, DeploymentState.ROLLED_BACK, reason=Reason.CRASH_LOOP, detail="3 crashes in 60 s")
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.RUNNING
    told = paper.sentence("lane_stopped")
    assert told.startswith("Lane pi stops: 1 of ")
    assert f"0 are allowed; the first is {bad}: crash_loop, 3 crashes in 60 s" in told
    assert told.endswith(" other devices will not get it, 1 that runs it keeps it.")
    versions = {device: (paper.wanted(device) or pytest.fail(device)).version for device in paper.devices}
    assert versions[bad] == "1"
    assert versions[good] == "2", "it was verified there"
    assert {versions[device] for device in busy} <= {"1"}, "the offer was taken back"
    for _ in range(3):
        for device in offered(paper, r):
            if device.startswith("z"):
                paper.report(device)
        paper.tick()
    states = paper.states(r)
    assert {states[device] for device in states if device.startswith("z")} == {"running"}
    assert sorted(states[device] for device in states if device.startswith("p")) == [
        "cancelled",
        "cancelled",
        "rolled_back",
        "running",
    ]
    assert "; stopped lanes: pi." in paper.ledger.standings[r].reason
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert paper.actions.count("lane_stopped") == 1


def test_advance_device_that_fails_in_a_stopped_lane_goes_back_without_another_word(make_paper: Make) -> None:
    paper, r = two_lanes(make_paper)
    good, bad, *_ = sorted(device for device in offered(paper, r) if device.startswith("p"))
    paper.report(good)
    paper.report(bad, DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.tick()
    paper.report(good, DeploymentState.ROLLED_BACK, reason=Reason.CRASH_LOOP)
    paper.tick()
    assert (paper.wanted(good) or pytest.fail("nothing")).version == "1"
    assert paper.actions.count("lane_stopped") == 1


def test_advance_failures_in_every_lane_stop_the_rollout(make_paper: Make) -> None:
    paper, r = two_lanes(make_paper)
    for kind in ("p", "z"):
        bad = min(device for device in offered(paper, r) if device.startswith(kind))
        paper.report(bad, DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
        paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.STOPPED
    assert paper.sentence("stopped").startswith("Stopped: no lane goes on; 1 of ")
    assert "lane zero" in paper.sentence("stopped")
    assert paper.actions.count("lane_stopped") == 1
    assert not {"offered", "waiting"} & set(paper.states(r).values())


def test_advance_rollout_of_which_only_refused_profiles_are_left_stops(make_paper: Make) -> None:
    paper = make_paper(3)
    r = paper.start("r", waves="1,100%")
    paper.tick()
    (first,) = offered(paper, r)
    small = next(device for device in paper.devices if device != first)
    paper = make_paper({device: "small" if device == small else "pi" for device in paper.devices})
    paper.start(r, waves="1,100%")
    paper.choices["1"]["small"] = ChoiceFact(refusal="0.3 MB needed")
    paper.tick()
    paper.report(first, DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.STOPPED
    assert paper.actions == ["planned", "wave_opened", "stopped"]


def test_advance_failures_scattered_over_lanes_stop_the_rollout(make_paper: Make) -> None:
    paper, r = two_lanes(make_paper, max_failures=1)
    for kind, state in (("p", RolloutState.RUNNING), ("z", RolloutState.STOPPED)):
        bad = min(device for device in offered(paper, r) if device.startswith(kind))
        paper.report(bad, DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
        paper.tick()
        assert paper.ledger.standings[r].state is state
    assert "2 of 6 devices of wave 1 in 2 lanes failed, 1 are allowed" in paper.sentence("stopped")


def test_advance_lane_that_stopped_while_paused_stays_so_when_it_goes_on(make_paper: Make) -> None:
    paper, r = two_lanes(make_paper)
    paper.say(r, "pause")
    bad = min(device for device in offered(paper, r) if device.startswith("p"))
    paper.report(bad, DeploymentState.FAILED, reason=Reason.RUNNER_CRASHED)
    paper.tick()
    paper.say(r, "resume")
    paper.tick()
    states = paper.states(r)
    assert {state for device, state in states.items() if device.startswith("p")} == {"failed", "cancelled"}
    assert "offered" in states.values()


def test_advance_silent_canary_is_followed_by_another(make_paper: Make) -> None:
    paper = make_paper(3)
    r = paper.start("r", unproven=True, silence_deadline_s=10)
    paper.tick()
    (first,) = offered(paper, r)
    paper.tick(20)
    assert len(offered(paper, r)) == 2
    (second,) = offered(paper, r) - {first}
    paper.report(second)
    paper.tick()
    assert len(offered(paper, r)) == 3


def test_obey_pause_resume_abort_each_once_and_in_order(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r", waves="1,2,100%")
    paper.tick()
    (first,) = offered(paper, r)
    paper.say(r, "pause")
    paper.all_run(r)
    paper.tick()
    assert offered(paper, r) == {first}
    paper.say(r, "resume")
    paper.tick()
    assert len(offered(paper, r)) == 2
    (second,) = offered(paper, r) - {first}
    for action in ("pause", "abort", "resume", "explode"):
        paper.say(r, action)
    paper.tick()
    paper.tick()
    assert paper.actions[-4:] == ["pause", "abort", "ignored", "ignored"]
    assert paper.ledger.standings[r].state is RolloutState.ABORTED
    assert paper.ledger.standings[r].last_command_id == 6
    assert paper.wanted(first) is not None, "who has it keeps it"
    assert paper.wanted(second) is None, "who does not have it yet will not get it"


def test_obey_rollback_gives_each_device_what_it_ran_before_and_leaves_other_models(make_paper: Make) -> None:
    paper = make_paper(4)
    other = paper.start("other", model="other")
    first = paper.start("first", waves="2")
    paper.tick()
    paper.all_run(other)
    paper.all_run(first)
    had = {device for device in paper.devices if paper.wanted(device)}
    second = paper.start("second", version="2")
    paper.tick()
    paper.all_run(second)
    assert paper.ledger.standings[second].state is RolloutState.FINISHED
    generations = dict(paper.ledger.generations)
    paper.say(second, "rollback")
    paper.tick()
    paper.tick()
    assert paper.ledger.standings[second].state is RolloutState.ROLLING_BACK
    for device in paper.devices:
        entry = paper.wanted(device)
        assert (entry.version if entry else None) == ("1" if device in had else None)
        assert paper.wanted(device, "other") is not None
        assert paper.ledger.generations[device] == generations[device] + 1
    assert set(paper.states(second).values()) == {"rolling_back"}
    for device in paper.devices:
        paper.takes_up(device)
    paper.tick()
    assert {device for device, state in paper.states(second).items() if state == "rolled_back"} == (
        set(paper.devices) - had
    ), "who ran nothing before is back as soon as it has stopped; the others must run the old version again"
    assert paper.ledger.standings[second].state is RolloutState.ROLLING_BACK
    paper.all_run(first)
    paper.tick()
    assert set(paper.states(second).values()) == {"rolled_back"}
    assert paper.ledger.standings[second].state is RolloutState.ROLLED_BACK
    assert paper.sentence("rolled_back") == "Rolled back: 4 of 4 devices run again what they ran before."
    assert {device for device, state in paper.states(first).items() if state == "running"} == had


@pytest.mark.parametrize("heard", [False, True], ids=["silent", "stuck"])
def test_follow_device_that_does_not_go_back_holds_the_word_only_for_its_patience(
    make_paper: Make, *, heard: bool
) -> None:
    paper = make_paper(2)
    r = paper.start("r", silence_deadline_s=60, progress_deadline_s=600)
    paper.tick()
    paper.all_run(r)
    paper.tick(5000)
    for device in paper.devices:
        paper.seen(device)
    paper.say(r, "rollback")
    paper.tick()
    paper.takes_up("d0")
    for _ in range(10 if heard else 1):
        paper.tick(55)
        assert paper.states(r) == {"d0": "rolled_back", "d1": "rolling_back"}
        assert paper.ledger.standings[r].state is RolloutState.ROLLING_BACK
        if heard:
            paper.seen("d1")
    paper.tick(59)
    assert paper.ledger.standings[r].state is RolloutState.ROLLED_BACK
    assert "1 of 2 devices run again what they ran before; d1 did not say so in time" in paper.sentence("rolled_back")
    assert paper.states(r)["d1"] == "rolling_back", "it has not done it"
    paper.takes_up("d1")
    paper.tick()
    assert paper.states(r)["d1"] == "rolled_back"
    assert paper.actions.count("rolled_back") == 1


def test_obey_rollback_skips_a_version_that_was_rolled_back_in_the_meantime(make_paper: Make) -> None:
    paper = make_paper(1)
    for name, version in (("one", "1"), ("two", "2"), ("three", "3")):
        paper.start(name, version=version)
        paper.tick()
        paper.all_run(name)
    paper.say("two", "rollback")
    paper.tick()
    assert (paper.wanted("d0") or pytest.fail("nothing")).version == "3", "a newer rollout has it"
    paper.say("three", "rollback")
    paper.tick()
    assert (paper.wanted("d0") or pytest.fail("nothing")).version == "1"


def test_advance_older_rollout_never_takes_a_device_from_a_newer_one(make_paper: Make) -> None:
    paper = make_paper(4)
    old = paper.start("old", waves="1,4")
    paper.tick()
    new = paper.start("new", version="2")
    paper.tick()
    paper.tick()
    assert {(paper.wanted(device) or pytest.fail(device)).version for device in paper.devices} == {"2"}
    assert set(paper.states(old).values()) == {"superseded"}
    paper.all_run(new)
    assert paper.ledger.standings[old].state is RolloutState.FINISHED


def test_advance_removed_device_is_cancelled_and_holds_nothing(make_paper: Make) -> None:
    paper = make_paper(4)
    r = paper.start("r", waves="2,4")
    paper.tick()
    gone, other = wave(paper, r, 0)
    paper.removed = {gone, wave(paper, r, 1)[0]}
    paper.report(other)
    paper.tick()
    paper.all_run(r)
    assert sorted(paper.states(r).values()) == ["cancelled", "cancelled", "running", "running"]
    assert paper.ledger.standings[r].state is RolloutState.FINISHED


def test_advance_nobody_matches_finishes_at_once(make_paper: Make) -> None:
    paper = make_paper(0)
    r = paper.start("r", waves="10%,100%")
    paper.tick()
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    assert paper.actions == ["planned", "finished"]


def test_advance_repeated_without_news_changes_nothing(make_paper: Make) -> None:
    paper = make_paper()
    paper.start("r", waves="3,100%")
    paper.tick()
    paper.tick()
    assert not paper.ledger.changed
