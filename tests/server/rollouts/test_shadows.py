"""Shadows in a rollout: what devices are asked, what their findings stop, and what is told of them."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import Desired
from edge_agent.protocol.shadow import ShadowOutcome, ShadowPlan, ShadowReport
from edge_agent.protocol.states import DeploymentState, Reason
from server.database import tables
from server.rollouts.health import LaneHealth, examine
from server.rollouts.shadows import UNKNOWN, plan_of
from server.rollouts.views import get_rollout
from server.schemas.rollouts import RolloutOptions, RolloutState
from tests.server.rollouts.test_controller import controller, linked, tick_until
from tests.server.rollouts.test_lanes import others

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.server.rollouts.conftest import Paper, Registry

    Make = Callable[..., Paper]

OPTIONS = RolloutOptions(shadow_s=1800)


def found(agreed: int = 200, samples: int = 200, *, slowdown: float = 0.0, p95_only: bool = False) -> ShadowReport:
    return ShadowReport(
        outcome=ShadowOutcome.AGREED,
        detail=f"shadow: {agreed} of {samples} samples agree with the active version",
        requests=1000,
        sampled=samples,
        samples=samples,
        agreed=agreed,
        active_p50_ms=10.0,
        active_p95_ms=20.0,
        p50_ms=10.0 if p95_only else 10.0 * (1 + slowdown),
        p95_ms=20.0 * (1 + slowdown),
    )


def judged(shadows: Sequence[ShadowReport], options: RolloutOptions = OPTIONS) -> LaneHealth:
    return examine([], options, lanes=1, shadows=shadows)


def in_shadow(make_paper: Make, **options: Any) -> tuple[Paper, str]:  # noqa: ANN401  of RolloutOptions
    """Ten devices run version 1, and those of the first wave run version 2 as a shadow."""
    paper = make_paper()
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", waves="40%,100%", **{"shadow_s": 1800, "min_inferences": 0, **options})
    paper.tick()
    for row in first_wave(paper, new):
        paper.report(row, DeploymentState.SHADOWING, shadow=ShadowReport())
    paper.tick()
    return paper, new


def first_wave(paper: Paper, name: str) -> list[str]:
    return [row.device_id for row in paper.ledger.rows_of(name) if row.wave == 0]


def test_offer_of_a_rollout_with_shadows_asks_for_one_and_keeps_none_for_the_way_back(make_paper: Make) -> None:
    paper, new = in_shadow(make_paper, shadow_cpu=0.1, shadow_samples=50, shadow_hold=True)
    device = first_wave(paper, new)[0]
    entry = paper.wanted(device)
    assert entry is not None
    assert entry.shadow == ShadowPlan(deadline_s=1800, samples=50, cpu_share=0.1, hold=True)
    paper.report(device, shadow=found())
    paper.tick()
    third = paper.start("third", version="3", shadow_s=60)
    paper.tick()
    assert paper.row(third, device).previous is not None

    paper.say(third, "rollback")
    paper.tick()

    back = paper.wanted(device)
    assert back is not None
    assert (back.version, back.shadow) == ("2", None), "who goes back answers at once"


def test_plan_without_shadows_asks_for_none(make_paper: Make) -> None:
    paper = make_paper()
    name = paper.start("plain")
    assert plan_of(paper.rollouts[name]) is None
    assert plan_of(replace(paper.rollouts[name], options=OPTIONS, scores=True)) == ShadowPlan(
        deadline_s=1800, scores=True
    )


def test_wave_in_shadow_holds_the_next_one_and_is_stuck_only_after_the_shadow_and_the_patience(
    make_paper: Make,
) -> None:
    paper, new = in_shadow(make_paper)
    assert set(paper.states(new).values()) == {"shadowing", "waiting"}
    for _ in range(50):
        for device in first_wave(paper, new):
            paper.seen(device)
        paper.tick(100)
    assert paper.states(new)[first_wave(paper, new)[0]] == "shadowing", "5,000 s are less than 1,800 + 3,600 s"
    for _ in range(5):
        for device in first_wave(paper, new):
            paper.seen(device)
        paper.tick(100)
    assert paper.row(new, first_wave(paper, new)[0]).reason != "none"


def test_shadow_that_is_to_hold_is_never_stuck(make_paper: Make) -> None:
    paper, new = in_shadow(make_paper, shadow_hold=True)
    for _ in range(30):
        for device in first_wave(paper, new):
            paper.seen(device)
        paper.tick(500)
    assert paper.states(new)[first_wave(paper, new)[0]] == "shadowing"


@pytest.mark.parametrize("reason", [Reason.SHADOW_DISAGREES, Reason.SHADOW_FAILED])
def test_device_whose_shadow_is_bad_stops_its_lane_before_anyone_was_answered(make_paper: Make, reason: Reason) -> None:
    paper, new = in_shadow(make_paper)
    first = first_wave(paper, new)[0]
    bad = found(100).model_copy(update={"outcome": ShadowOutcome.DISAGREED})
    said = "as a shadow 100 of 200 samples agree with the active version"
    paper.report(first, DeploymentState.REJECTED, reason=reason, detail=said, shadow=bad)
    paper.tick()

    assert paper.ledger.standings[new].state is RolloutState.STOPPED
    assert said in paper.sentence("stopped")
    assert {(paper.wanted(device) or pytest.fail(device)).version for device in paper.devices} == {"1"}
    assert paper.row(new, first).shadow == bad


def test_lane_whose_first_shadow_disagrees_is_given_the_next_variant(make_paper: Make) -> None:
    paper = make_paper()
    old = paper.start("old")
    paper.tick()
    paper.all_run(old)
    new = paper.start("new", version="2", shadow_s=60)
    others(paper, "pi", "second")
    paper.tick()
    paper.report("d0", DeploymentState.REJECTED, reason=Reason.SHADOW_DISAGREES, detail="differs")
    paper.tick()
    paper.tick()

    assert "next_variant" in paper.actions
    (second,) = [row for row in paper.ledger.rows_of(new) if row.state == "offered"]
    entry = paper.wanted(second.device_id)
    assert entry is not None
    assert entry.variant_id == "second"
    assert entry.shadow is not None
    assert paper.ledger.standings[new].state is RolloutState.RUNNING


def test_shadows_that_disagree_a_little_on_many_devices_stop_the_lane_and_send_back_who_runs_it(
    make_paper: Make,
) -> None:
    paper, new = in_shadow(make_paper, shadow_agreement=0.999)
    for device in first_wave(paper, new):
        paper.report(device, shadow=found(190))
    paper.tick()
    paper.tick()

    assert "of answers are others than the active version's, on 4 shadows" in paper.sentence("gate_failed")
    assert {(paper.wanted(device) or pytest.fail(device)).version for device in paper.devices} == {"1"}


def test_shadows_that_agree_let_the_next_wave_open_and_are_told(make_paper: Make) -> None:
    paper, new = in_shadow(make_paper)
    first, *rest = first_wave(paper, new)
    silent = ShadowReport(outcome=ShadowOutcome.INCONCLUSIVE, detail="shadow: 0 of 200 samples: no request came")
    paper.report(first, shadow=silent)
    for device in rest:
        paper.report(device, shadow=found(199))
    paper.tick()
    paper.tick()

    assert "99.5 % of answers agree on 3 shadows" in paper.sentence("lane_measured")
    assert "1 went on without enough of a shadow (the first: shadow: 0 of 200" in paper.sentence("lane_measured")
    assert all(paper.wanted(device) for device in paper.devices)
    assert paper.ledger.standings[new].wave == 1


def test_device_that_runs_it_without_a_shadow_that_was_asked_for_is_told(make_paper: Make) -> None:
    paper, new = in_shadow(make_paper)
    for device in first_wave(paper, new):
        paper.report(device)
    paper.tick()
    paper.tick()
    shadow = paper.row(new, first_wave(paper, new)[0]).shadow
    assert shadow is not None
    assert (shadow.outcome, shadow.detail) == (ShadowOutcome.SKIPPED, UNKNOWN)
    assert UNKNOWN in paper.sentence("lane_measured")


def test_lane_of_slow_shadows_is_stopped_by_the_median_and_the_p95_together() -> None:
    slow = [found(slowdown=1.0 + number / 100) for number in range(5)]
    health = judged(slow)
    assert "longer than the active version on the same requests, on 5 shadows" in health.cause
    assert health.figures["gate"] == "slower_as_shadow"
    assert judged([found(slowdown=1.0 + n / 100, p95_only=True) for n in range(5)]).cause == ""
    assert judged(slow, OPTIONS.model_copy(update={"shadow_max_slowdown": 2.0})).cause == ""


def test_lane_of_shadows_that_agree_nearly_as_asked_needs_many_to_stop() -> None:
    assert judged([found(191)] * 3).cause == ""
    assert judged([found(191)] * 20).figures["gate"] == "disagrees"


def test_lane_of_healthy_shadows_is_never_stopped() -> None:
    chance = random.Random(7)
    for _ in range(200):
        shadows = []
        for _ in range(40):
            agreed = sum(chance.random() < 0.985 for _ in range(200))
            shadows.append(found(agreed, slowdown=chance.lognormvariate(0.1, 0.3) - 1))
            assert judged(shadows).cause == ""


def test_controller_writes_what_a_shadow_found_and_the_view_shows_it(make_registry: Callable[[int], Registry]) -> None:
    registry = make_registry(1)
    version = {
        "model": "m",
        "version": "1",
        "task": "classification",
        "metric": "top1",
        "source_sha256": "0" * 64,
        "source_bytes": 1,
        "eval_sha256": "0" * 64,
        "document": {},
        "created_at": 0.0,
    }
    with registry.database.write() as connection:
        connection.execute(sa.insert(tables.model_versions).values(version))
    name = registry.start("r1", shadow_s=60.0, min_inferences=0)
    with linked(registry) as connection:
        one = controller(registry, connection)
        tick_until(one, lambda: bool(registry.rows(tables.desired)))
        (row,) = registry.rows(tables.desired)
        desired = Desired.model_validate(row.document)
        assert desired.deployments[0].shadow == ShadowPlan(deadline_s=60, scores=True)
        registry.runs(registry.device(0), desired, shadow=found(199))
        tick_until(one, lambda: registry.state(name) == "finished")

    (deployment,) = get_rollout(registry.database, name).deployments
    assert deployment.shadow == found(199)
