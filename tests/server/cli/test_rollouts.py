"""What `rollout start --watch` takes for a good end."""

from __future__ import annotations

import pytest

from server.cli.rollouts import is_good_end
from server.schemas.rollouts import LaneStopView, Rollout, RolloutState, WaveView

STOP = LaneStopView(profile="pi-4", variant_id="v-1", wave=0, cause="dev-1 refuses v-1")


def wave(**counts: int) -> WaveView:
    none = dict.fromkeys(("waiting", "in_progress", "running", "failed", "timed_out", "no_variant"), 0)
    return WaveView(wave=0, devices=sum(counts.values()), **{**none, **counts})


def ended(
    *waves: WaveView, state: RolloutState = RolloutState.FINISHED, lanes: tuple[LaneStopView, ...] = ()
) -> Rollout:
    return Rollout(
        rollout_id="r",
        model="net",
        version="1",
        selector="",
        state=state,
        waves=waves,
        stopped_lanes=lanes,
        created_at=1.0,
        updated_at=2.0,
    )


@pytest.mark.parametrize(
    ("rollout", "is_good"),
    [
        pytest.param(ended(wave(running=2)), True, id="all-run-it"),
        pytest.param(ended(wave(timed_out=1), wave(running=1, failed=1)), True, id="some-run-it"),
        pytest.param(ended(wave(no_variant=2)), True, id="nobody-has-a-variant"),
        pytest.param(ended(), True, id="nobody-matches"),
        pytest.param(ended(wave(timed_out=2)), False, id="all-are-silent"),
        pytest.param(ended(wave(failed=1, no_variant=1)), False, id="the-only-one-with-a-variant-failed"),
        pytest.param(ended(wave(left=1)), False, id="taken-over"),
        pytest.param(ended(wave(running=1, refused=1), lanes=(STOP,)), False, id="a-lane-stopped"),
        pytest.param(ended(wave(running=1), state=RolloutState.ABORTED), False, id="aborted"),
    ],
)
def test_end_of_a_rollout_is_good_when_no_lane_stopped_and_somebody_runs_it(rollout: Rollout, *, is_good: bool) -> None:
    assert is_good_end(rollout) is is_good
