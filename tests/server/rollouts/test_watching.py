"""What measurements do to a rollout on paper: who stops, who goes back, who waits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.states import DeploymentState, Reason
from server.rollouts.health import LATER_S, Measured, Sample, examine
from server.schemas.rollouts import RolloutOptions, RolloutState

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.rollouts.conftest import Paper

    Make = Callable[..., Paper]

GOOD = Sample(attempts=200, failures=1, p95_ms=10.0)
SLOW = Sample(attempts=200, failures=1, p95_ms=20.0)
BROKEN = Sample(attempts=200, failures=200, p95_ms=None)


def measure(paper: Paper, samples: dict[str, Measured], expected: tuple[str, ...] = ()) -> None:
    """From now on these devices have measured this of the newest rollout, and these others are in use."""
    newest = next(reversed(paper.rollouts))
    ids = {row.device_id: row.deployment_id for row in paper.ledger.rows_of(newest)}
    paper.measured = {ids[device]: sample for device, sample in samples.items() if device in ids}
    paper.in_use = {ids[device] for device in expected if device in ids}


def updated(make_paper: Make, *, gate_deadline_s: float = 600, quorum: float = 0) -> tuple[Paper, str]:
    """Ten devices that ran version 1 and of which the first wave runs version 2."""
    paper = make_paper()
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", waves="60%,100%", gate_deadline_s=gate_deadline_s, quorum=quorum)
    paper.tick()
    for row in paper.ledger.rows_of(new):
        if row.opened_at is not None:
            paper.report(row.device_id)
    return paper, new


@pytest.mark.parametrize(("sample", "said"), [(SLOW, "the p95 is at least"), (BROKEN, "of inferences fail on 6")])
def test_look_variant_proves_bad_after_commit_lane_stops_and_its_devices_go_back(
    make_paper: Make, sample: Sample, said: str
) -> None:
    paper, new = updated(make_paper)
    first = [row.device_id for row in paper.ledger.rows_of(new) if row.wave == 0]
    noisy = {
        device: Measured(replace(sample, p95_ms=sample.p95_ms and sample.p95_ms * (1 + number / 100)), GOOD)
        for number, device in enumerate(first)
    }
    measure(paper, noisy, expected=tuple(first))
    paper.tick()  # they run
    paper.tick()
    assert paper.ledger.standings[new].state is RolloutState.STOPPED
    assert said in paper.sentence("gate_failed")
    assert "6 devices go back" in paper.sentence("gate_failed")
    assert [(paper.wanted(device) or pytest.fail(device)).version for device in paper.devices] == ["1"] * 10
    assert paper.actions.count("gate_failed") == 1
    paper.tick()
    assert paper.actions.count("gate_failed") == 1, "said once"


def test_look_first_version_proves_bad_has_nothing_to_go_back_to_and_stays(make_paper: Make) -> None:
    paper = make_paper()
    r = paper.start("r")
    paper.tick()
    paper.all_run(r)
    assert paper.ledger.standings[r].state is RolloutState.FINISHED
    measure(paper, {device: Measured(BROKEN) for device in paper.devices})
    paper.tick()
    assert "10 have nothing to go back to and keep it" in paper.sentence("gate_failed")
    assert all(paper.wanted(device) for device in paper.devices)
    assert "Since then: Lane pi" in paper.ledger.standings[r].reason


def finished_without_the_last(make_paper: Make, *, max_failures: int = 0) -> tuple[Paper, str]:
    """Ten devices ran version 1; nine run version 2, and of the last nothing was heard since then."""
    paper = make_paper()
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", silence_deadline_s=60, max_failures=max_failures)
    paper.tick()
    for number in range(9):
        paper.report(f"d{number}")
    paper.tick(100)
    paper.tick()
    assert paper.ledger.standings[new].state is RolloutState.FINISHED
    assert paper.row(new, "d9").state == "timed_out"
    return paper, new


def test_look_finished_rollout_is_taken_back_and_reaches_nobody_who_was_silent_till_then(make_paper: Make) -> None:
    paper, new = finished_without_the_last(make_paper)
    measure(paper, {f"d{number}": Measured(BROKEN, GOOD) for number in range(5)})
    paper.tick()
    assert "9 devices go back" in paper.sentence("gate_failed")
    assert "1 other device will not get it" in paper.sentence("lane_stopped")
    assert [(paper.wanted(device) or pytest.fail(device)).version for device in paper.devices] == ["1"] * 10
    assert paper.states(new)["d9"] == "cancelled"
    for device in paper.devices:
        paper.report(device)
    for _ in range(3):
        paper.tick()
    assert set(paper.states(new).values()) == {"rolled_back", "cancelled"}
    assert paper.actions.count("lane_stopped") == 1
    assert not paper.ledger.changed


def test_advance_devices_that_fail_after_the_end_stop_their_lane_for_who_was_silent_till_then(make_paper: Make) -> None:
    paper, new = finished_without_the_last(make_paper, max_failures=1)
    paper.report("d0", DeploymentState.ROLLED_BACK, reason=Reason.CRASH_LOOP)
    paper.tick()
    assert "lane_stopped" not in paper.actions, "so many may"
    assert (paper.wanted("d9") or pytest.fail("d9")).version == "2"
    paper.report("d1", DeploymentState.ROLLED_BACK, reason=Reason.CRASH_LOOP)
    paper.tick()
    sentence = paper.sentence("lane_stopped")
    assert "2 of 10 devices of wave 1 in lane pi failed, 1 are allowed" in sentence
    assert "7 that run it keep it" in sentence
    assert paper.ledger.standings[new].reason.endswith(f"Since then: {sentence}")
    wanted = {device: (paper.wanted(device) or pytest.fail(device)).version for device in paper.devices}
    assert {device for device, version in wanted.items() if version == "1"} == {"d0", "d1", "d9"}
    paper.report("d2", DeploymentState.ROLLED_BACK, reason=Reason.CRASH_LOOP)
    paper.tick()
    assert (paper.wanted("d2") or pytest.fail("d2")).version == "1", "in a stopped lane who fails later goes back, too"
    assert paper.actions.count("lane_stopped") == 1


def test_look_healthy_devices_stop_nothing_and_the_lane_is_told(make_paper: Make) -> None:
    paper, new = updated(make_paper)
    measure(paper, dict.fromkeys(paper.devices, Measured(GOOD, GOOD)))
    paper.tick()
    paper.all_run(new)
    assert paper.ledger.standings[new].state is RolloutState.FINISHED
    assert "0.5 % of inferences fail (before: 0.5 %)" in paper.sentence("lane_measured")
    assert "gate_failed" not in paper.actions


@pytest.mark.parametrize(("quorum", "state"), [(0.0, RolloutState.RUNNING), (0.5, RolloutState.PAUSED)])
def test_is_held_too_little_measured_waits_until_the_deadline_then_the_quorum_decides(
    make_paper: Make, quorum: float, state: RolloutState
) -> None:
    paper, new = updated(make_paper, gate_deadline_s=100, quorum=quorum)
    measure(paper, {}, expected=tuple(paper.devices))
    paper.tick()
    paper.tick(99)
    assert paper.ledger.standings[new].wave == 0
    assert "have not answered 200 inferences yet" in paper.ledger.standings[new].reason
    paper.tick(2)
    assert paper.ledger.standings[new].state is state
    assert paper.ledger.standings[new].wave == (1 if state is RolloutState.RUNNING else 0)
    paper.say(new, "resume")
    paper.tick()
    assert paper.ledger.standings[new].wave == 1, "the operator goes on without"


@pytest.mark.parametrize("word", ["abort", "pause"])
def test_is_held_lane_that_was_taken_out_and_is_not_measured_holds_up_no_other(make_paper: Make, word: str) -> None:
    paper = make_paper({f"d{number}": "pi" if number % 2 else "zero" for number in range(10)})
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", waves="60%,100%", gate_deadline_s=100, quorum=0.5)
    paper.tick()
    first = [row for row in paper.ledger.rows_of(new) if row.wave == 0]
    paper.in_use = {row.deployment_id for row in first if row.profile == "pi"}
    paper.all_run(new)
    assert paper.ledger.standings[new].wave == 0
    paper.say(new, word, "pi")
    paper.tick()
    assert paper.ledger.standings[new].wave == 1, paper.ledger.standings[new].reason
    paper.tick(200)
    assert paper.ledger.standings[new].state is RolloutState.RUNNING


def test_lane_below_the_quorum_is_paused_alone_and_catches_up_when_it_is_resumed(make_paper: Make) -> None:
    paper = make_paper({f"d{number}": "pi" if number % 2 else "zero" for number in range(10)})
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", waves="60%,100%", gate_deadline_s=100, quorum=0.5)
    paper.tick()
    first = [row for row in paper.ledger.rows_of(new) if row.wave == 0]
    measured = {row.device_id: Measured(GOOD, GOOD) for row in first if row.profile == "zero"}
    measure(paper, measured, expected=tuple(row.device_id for row in first if row.profile == "pi"))
    paper.all_run(new)
    paper.tick(200)
    paper.tick()

    standing = paper.ledger.standings[new]
    assert (standing.state, standing.wave) == (RolloutState.RUNNING, 1)
    assert standing.lane("pi").paused
    assert paper.sentence("unmeasured").endswith(
        "in pi on fewer than the quorum: paused there, `rollout resume new --profile pi` goes on without."
    )
    second = {row.device_id: row.profile for row in paper.ledger.rows_of(new) if row.wave == 1}
    assert {profile for device, profile in second.items() if paper.states(new)[device] != "waiting"} == {"zero"}
    paper.say(new, "resume", "pi")
    paper.tick()
    assert "waiting" not in paper.states(new).values()


@pytest.mark.parametrize(("quorum", "heard", "state"), [(0.5, 2, "paused"), (0.5, 3, "finished"), (0.0, 0, "finished")])
def test_is_held_devices_that_ran_it_and_fell_silent_are_no_success(
    make_paper: Make, quorum: float, heard: int, state: str
) -> None:
    paper = make_paper()
    r = paper.start("r", waves="60%,100%", soak_s=3600, silence_deadline_s=600, quorum=quorum)
    paper.tick()
    paper.all_run(r)
    first = [row.device_id for row in paper.ledger.rows_of(r) if row.wave == 0]
    paper.tick(3595)
    for device in first[:heard]:
        paper.seen(device)
    paper.tick(10)
    silent = len(first) - heard
    if state == "paused":
        assert paper.ledger.standings[r].state is RolloutState.PAUSED
        assert f"that ran it {silent} said nothing for more than 600 s" in paper.sentence("fell_silent")
        paper.tick()
        assert paper.actions.count("fell_silent") == 1
        paper.say(r, "resume")
        paper.tick()
    opened = [sentence for action, sentence in paper.sentences if action == "wave_opened"][1]
    assert f"before it 6 run ({silent} of them not heard for more than 600 s)" in opened
    for row in paper.ledger.rows_of(r):
        if row.wave == 1:
            paper.report(row.device_id)
    paper.tick()
    assert f"Finished: 10 of 10 devices run m@1 ({silent} of them not heard" in paper.ledger.standings[r].reason


SCATTER = (1.5, 20.0, 3.0, 40.0, 2.0, 12.0)  # times as slow: far beyond a tenth, and no bound can be sure of it


def undecided(paper: Paper, name: str) -> None:
    """The first wave looks far slower than before, on devices that agree in nothing."""
    first = [row.device_id for row in paper.ledger.rows_of(name) if row.wave == 0]
    samples = {
        device: Measured(Sample(200, 1, 10.0 * times), GOOD) for device, times in zip(first, SCATTER, strict=True)
    }
    measure(paper, samples)


def test_is_held_bound_undecided_far_beyond_what_is_allowed_holds_then_pauses_its_lane(make_paper: Make) -> None:
    paper, new = updated(make_paper, gate_deadline_s=100)
    undecided(paper, new)
    paper.tick()  # they run
    paper.tick()
    standing = paper.ledger.standings[new]
    assert "gate_failed" not in paper.actions, "else this tests nothing"
    assert (standing.wave, standing.state) == (0, RolloutState.RUNNING)
    assert "the next waits at most 100 s for more to be known of lane pi: the p95 is" in standing.reason
    assert "longer than before on 6 devices, 10 % may be" in standing.reason
    paper.tick(90)
    assert paper.ledger.standings[new].wave == 0
    paper.tick(20)
    paper.tick()
    standing = paper.ledger.standings[new]
    assert (standing.wave, standing.lane("pi").paused, standing.lane("pi").undecided) == (0, True, "2-pi")
    assert "not decided within 100 s: paused, `rollout resume new --profile pi` goes on" in paper.sentence("undecided")
    assert standing.reason == "The next wave waits for lane pi, which is paused: `rollout resume new --profile pi`."
    held = [row.device_id for row in paper.ledger.rows_of(new) if row.wave == 1]
    assert [(paper.wanted(device) or pytest.fail(device)).version for device in held] == ["1"] * 4
    for _ in range(3):
        paper.tick()
    assert paper.actions.count("undecided") == 1
    paper.say(new, "resume", "pi")
    paper.tick()
    assert paper.ledger.standings[new].wave == 1, "the operator goes on; it is not asked again"
    for _ in range(3):
        paper.all_run(new)
    assert paper.ledger.standings[new].state is RolloutState.FINISHED
    assert paper.actions.count("undecided") == 1


def test_is_held_undecided_bound_that_is_decided_meanwhile_goes_its_way(make_paper: Make) -> None:
    paper, new = updated(make_paper, gate_deadline_s=100)
    undecided(paper, new)
    paper.tick()  # they run
    paper.tick()
    assert paper.ledger.standings[new].wave == 0
    first = [row.device_id for row in paper.ledger.rows_of(new) if row.wave == 0]
    measure(paper, {device: Measured(replace(SLOW, p95_ms=20.0 + n / 100), GOOD) for n, device in enumerate(first)})
    paper.tick(10)
    assert paper.ledger.standings[new].state is RolloutState.STOPPED
    assert "the p95 is at least" in paper.sentence("gate_failed")
    assert "undecided" not in paper.actions


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ([Measured(SLOW, GOOD)], "the p95 is 100 % longer than before on 1 device, 10 % may be"),
        ([Measured(replace(GOOD, p95_ms=15.9), GOOD)], ""),  # beyond what is allowed, and not far
        ([Measured(GOOD, GOOD)] * 6, ""),
        ([Measured(SLOW)], ""),  # nothing to compare with
        ([], ""),
    ],
)
def test_examine_doubts_what_is_far_beyond_on_however_few_devices(samples: list[Measured], said: str) -> None:
    found = examine(samples, RolloutOptions(), lanes=5)
    assert found.cause == ""
    assert (said in found.doubt) if said else (found.doubt == "")


def test_is_held_without_a_deadline_nothing_waits_to_be_decided(make_paper: Make) -> None:
    paper, new = updated(make_paper, gate_deadline_s=0)
    undecided(paper, new)
    paper.tick()  # they run
    paper.tick()
    assert paper.ledger.standings[new].wave == 1


def later(times: float, number: int, place: int) -> Measured:
    """A device that was as fast as before at first, and is so many times as slow at a later time."""
    found = Sample(200, 1, 10.0 * times * (1 + number / 100))
    return Measured(GOOD, GOOD, (*[None] * place, found))


@pytest.mark.parametrize("place", range(len(LATER_S)))
def test_look_variant_that_grows_slow_later_is_taken_back(make_paper: Make, place: int) -> None:
    paper, new = updated(make_paper)
    measure(paper, dict.fromkeys(paper.devices, Measured(GOOD, GOOD)))
    for _ in range(3):
        paper.all_run(new)
    assert paper.ledger.standings[new].state is RolloutState.FINISHED
    measure(paper, {device: later(2.0, number, place) for number, device in enumerate(paper.devices)})
    paper.tick()
    hours = f"{LATER_S[place] / 3600:g} h after devices began to run it the p95 is at least"
    assert hours in paper.sentence("gate_failed")
    assert "10 devices go back" in paper.sentence("gate_failed")


def test_examine_later_a_little_slower_is_the_hour_and_no_fault_and_failures_are_one() -> None:
    busy = [later(1.4, number, 0) for number in range(30)]
    assert examine(busy, RolloutOptions(), lanes=1).cause == ""
    failing = [Measured(GOOD, GOOD, (Sample(200, 40, 10.0),)) for _ in range(10)]
    assert "1 h after devices began to run it at least" in examine(failing, RolloutOptions(), lanes=1).cause
    assert examine([Measured(GOOD, GOOD, (GOOD, None, GOOD))] * 30, RolloutOptions(), lanes=1).cause == ""
