"""Apps that ask for time before a swap: what waits, what ends the wait, and what is left when the device dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.deployments import events as ev
from edge_agent.deployments.acquire import Rules
from edge_agent.deployments.deferring import MOST_DEFERRALS
from edge_agent.deployments.records import Deferral
from edge_agent.protocol.messages import Desired
from edge_agent.protocol.shadow import ShadowPlan
from edge_agent.protocol.states import DeploymentState, Reason
from tests.edge_agent.deployments.test_core import ONE, PROOF, TWO, Bench, kinds, stops
from tests.edge_agent.deployments.test_shadowing import found

if TYPE_CHECKING:
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

TOKEN, OTHER_TOKEN = "a" * 32, "b" * 32
LIMIT_S = 600.0


class DeferBench(Bench):
    """A core whose `d1` answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.run_through(1, "d1", ONE)

    def defer(self, for_s: float = 60, *, token: str = TOKEN, model: str | None = None) -> list[ev.Action]:
        deferral = Deferral(token=token, model=model, for_s=for_s, until=self.now_s + for_s, reason="checkout running")
        return self.tell(ev.DeferAsked(deferral))

    def fetch(self, variant: ToyVariant = TWO, *, limit_s: float = LIMIT_S, shadow: ShadowPlan | None = None) -> None:
        wanted = variant.wanted("d2").model_copy(update={"max_defer_s": limit_s, "shadow": shadow})
        self.tell(ev.DesiredReceived(Desired(epoch=1, generation=2, deployments=(wanted,))))
        self.give_manifest(variant)
        self.give_object(variant)

    def detail(self, name: str = "d2") -> str:
        return next(s.detail for s in self.core.statuses() if s.deployment_id == name)

    def begins(self, actions: list[ev.Action]) -> bool:
        return any(isinstance(action, ev.StartRunner) and action.deployment_id == "d2" for action in actions)


def test_core_asked_to_defer_persists_that_and_stays_staged_with_reason_and_time() -> None:
    bench = DeferBench()
    assert kinds(bench.defer()) == ["Persist"]
    bench.fetch()

    actions = bench.install(TWO)

    assert kinds(actions) == ["Persist"]
    assert actions[-1] == ev.Report()
    assert (bench.state("d2"), bench.reason("d2")) == ("staged", Reason.DEFERRED)
    assert bench.detail() == "an app asked to wait until 1970-01-01T00:17:40Z: checkout running"
    assert bench.serving() == {"d1"}
    assert bench.core.next_due_s == bench.now_s + 60
    record = next(r for r in bench.snapshot.records if r.deployment_id == "d2")
    assert (record.state, record.deferred_at) == (DeploymentState.STAGED, bench.now_s)


def test_core_whose_deferral_is_over_tests_and_swaps() -> None:
    bench = DeferBench()
    bench.defer(60)
    bench.fetch()
    bench.install(TWO)
    assert kinds(bench.tick(59)) == []

    assert bench.begins(bench.tick(1))

    bench.prove("d2")
    assert (bench.state("d2"), bench.reason("d2"), bench.detail()) == ("active", Reason.NONE, "")
    assert bench.snapshot.deferrals == ()


def test_core_whose_app_releases_swaps_at_once_unless_another_app_still_asks() -> None:
    bench = DeferBench()
    bench.defer(60)
    bench.defer(90, token=OTHER_TOKEN)
    bench.fetch()
    bench.install(TWO)

    assert not bench.begins(bench.tell(ev.DeferEnded(OTHER_TOKEN)))
    assert "00:17:40Z" in bench.detail(), "the one that is left ends earlier"
    assert bench.tell(ev.DeferEnded("c" * 32)) == []
    assert bench.begins(bench.tell(ev.DeferEnded(TOKEN)))


def test_core_whose_app_renews_again_and_again_swaps_at_the_limit_and_says_so() -> None:
    bench = DeferBench()
    bench.fetch(limit_s=LIMIT_S)
    bench.defer(60)
    bench.install(TWO)
    for _ in range(11):
        bench.tick(50)
        assert not bench.begins(bench.defer(60))

    assert bench.core.next_due_s == bench.now_s + 50
    assert bench.begins(bench.tick(50))
    bench.prove("d2")

    assert bench.state("d2") == "active"
    assert bench.detail() == "did not wait longer than 600 s, the rollout's limit, for an app: checkout running"


def test_core_killed_while_it_waits_counts_on_and_never_waits_longer_for_it() -> None:
    bench = DeferBench()
    bench.defer(60)
    bench.fetch()
    bench.install(TWO)

    bench.now_s += 40
    assert not bench.begins(bench.restart())
    bench.tell(ev.RunnerProven("d1", PROOF))
    bench.tell(ev.RunnerServing("d1"))
    assert bench.state("d2") == "staged"

    assert bench.begins(bench.tick(20))


def test_core_restarted_with_a_clock_before_the_deferral_waits_no_longer_than_was_asked_for() -> None:
    bench = DeferBench()
    bench.now_s = 1_000_000.0
    bench.defer(60)
    bench.fetch()
    bench.install(TWO)

    bench.now_s = 10.0  # after a boot without a battery
    bench.restart()
    bench.tell(ev.RunnerProven("d1", PROOF))

    assert bench.core.next_due_s == bench.now_s + 60
    assert bench.begins(bench.tick(60))


def test_core_asked_during_the_self_test_goes_back_to_staged_and_tests_again_later() -> None:
    bench = DeferBench()
    bench.fetch()
    assert bench.begins(bench.install(TWO))
    bench.defer(60)

    actions = bench.tell(ev.RunnerProven("d2", PROOF))

    assert stops(actions) == {"d2": ev.Leave.NOTHING}
    assert (bench.state("d2"), bench.reason("d2")) == ("staged", Reason.DEFERRED)
    assert not bench.begins(bench.tell(ev.RunnerExited("d2")))
    assert bench.serving() == {"d1"}
    record = next(r for r in bench.snapshot.records if r.deployment_id == "d2")
    assert record.tests == 0, "it ended well: it is no sign of a loop"
    assert bench.begins(bench.tick(60))


def test_core_that_stopped_the_active_one_for_room_does_not_wait_after_the_proof() -> None:
    bench = DeferBench(rules=Rules(memory_reserve_bytes=1 << 40), memory_bytes=1)
    bench.fetch()
    bench.install(TWO)
    assert bench.begins(bench.tell(ev.RunnerExited("d1")))
    bench.defer(60)

    assert "Activate" in kinds(bench.tell(ev.RunnerProven("d2", PROOF)))


def test_core_whose_shadow_agrees_waits_before_it_lets_it_answer() -> None:
    bench = DeferBench()
    bench.fetch(shadow=ShadowPlan(deadline_s=1800, samples=100, least_agreement=0.95))
    bench.install(TWO)
    bench.tell(ev.RunnerProven("d2", PROOF))
    bench.defer(60)

    bench.tell(ev.ShadowCompared("d2", found(100)))

    assert (bench.state("d2"), bench.reason("d2")) == ("shadowing", Reason.DEFERRED)
    assert "Activate" in kinds(bench.tick(60))
    assert bench.state("d2") == "active"


def test_core_does_not_hold_a_bad_shadow_for_an_app() -> None:
    bench = DeferBench()
    bench.fetch(shadow=ShadowPlan(deadline_s=1800, samples=100, least_agreement=0.95))
    bench.install(TWO)
    bench.tell(ev.RunnerProven("d2", PROOF))
    bench.defer(60)

    bench.tell(ev.ShadowCompared("d2", found(20)))

    assert bench.state("d2") == "rejected"


@pytest.mark.parametrize(("model", "limit_s"), [("another", LIMIT_S), (None, 0.0)], ids=["other_model", "no_time"])
def test_core_does_not_wait_for_what_concerns_it_not(model: str | None, limit_s: float) -> None:
    bench = DeferBench()
    bench.defer(60, model=model)
    bench.fetch(limit_s=limit_s)

    assert bench.begins(bench.install(TWO))


def test_core_on_which_nothing_answers_yet_does_not_wait() -> None:
    bench = Bench()
    deferral = Deferral(token=TOKEN, for_s=60, until=bench.now_s + 60, reason="early")
    bench.tell(ev.DeferAsked(deferral))
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)
    bench.give_object(ONE)

    assert "StartRunner" in kinds(bench.install(ONE))


def test_core_that_falls_back_from_a_crash_loop_does_not_wait() -> None:
    bench = DeferBench()
    bench.run_through(2, "d2", TWO)
    bench.tell(ev.RunnerExited("d1"))
    bench.defer(86_400)

    for _ in range(bench.rules.crash_limit - 1):
        bench.tell(ev.RunnerExited("d2", "signal 11"))
        bench.tick(30)

    actions = bench.tell(ev.RunnerExited("d2", "signal 11"))

    assert bench.state("d2") == "rolled_back"
    assert [a.deployment_id for a in actions if isinstance(a, ev.StartRunner)] == ["d1"]


def test_core_that_is_superseded_while_it_waits_drops_the_staged_one() -> None:
    bench = DeferBench()
    bench.defer(60)
    bench.fetch()
    bench.install(TWO)

    bench.want(3, {"d1": ONE})

    assert bench.state("d2") == "superseded"
    assert not bench.begins(bench.tick(60))
    assert bench.state("d1") == "active"


def test_core_takes_no_more_deferrals_than_it_keeps() -> None:
    bench = DeferBench()
    for number in range(MOST_DEFERRALS + 1):
        bench.defer(60, token=f"{number:032x}")

    assert len(bench.core.deferrals) == MOST_DEFERRALS
    assert bench.core.deferral(f"{MOST_DEFERRALS:032x}") is None
    bench.defer(90, token=f"{0:032x}")
    renewed = bench.core.deferral(f"{0:032x}")
    assert renewed is not None
    assert renewed.for_s == 90
