"""A shadow in the core: who becomes one, what ends it, and what is left when the device dies meanwhile."""

from __future__ import annotations

import pytest

from edge_agent.deployments import events as ev
from edge_agent.deployments.shadowing import NO_ROOM, SHADOW_LIMIT, chance_of_agreeing, judged
from edge_agent.protocol.messages import Desired
from edge_agent.protocol.shadow import OutputAgreement, ShadowOutcome, ShadowPlan, ShadowReport
from edge_agent.protocol.states import DeploymentState, Reason
from tests.edge_agent.deployments.test_core import ONE, PROOF, THREE, TWO, Bench, kinds, stops
from tests.edge_agent.surroundings.toy_variant import ToyVariant, make_variant

PLAN = ShadowPlan(deadline_s=1800, samples=100, least_agreement=0.95)


def found(agreed: int, samples: int = 100, *, errors: int = 0, too_large: int = 0) -> ShadowReport:
    return ShadowReport(
        requests=10 * samples + too_large,
        sampled=samples + errors,
        too_large=too_large,
        samples=samples,
        agreed=agreed,
        errors=errors,
        outputs=(OutputAgreement(name="y", agreed=agreed),),
    )


class ShadowBench(Bench):
    """A core whose `d1` answers, and which is told to run `d2` as its shadow."""

    def want_shadow(self, variant: ToyVariant = TWO, plan: ShadowPlan = PLAN) -> None:
        wanted = variant.wanted("d2").model_copy(update={"shadow": plan})
        self.tell(ev.DesiredReceived(Desired(epoch=1, generation=2, deployments=(wanted,))))
        self.give_manifest(variant)
        self.give_object(variant)
        self.install(variant)

    def run_shadow(self, plan: ShadowPlan = PLAN) -> list[ev.Action]:
        self.run_through(1, "d1", ONE)
        self.want_shadow(plan=plan)
        return self.tell(ev.RunnerProven("d2", PROOF))

    def compared(self, report: ShadowReport) -> list[ev.Action]:
        return self.tell(ev.ShadowCompared("d2", report))

    def report(self, name: str = "d2") -> ShadowReport:
        report = next(s.shadow for s in self.core.statuses() if s.deployment_id == name)
        assert report is not None
        return report

    def detail(self, name: str = "d2") -> str:
        return next(s.detail for s in self.core.statuses() if s.deployment_id == name)


def test_core_with_a_shadow_plan_leaves_the_active_one_answering_and_persists_before_it_copies() -> None:
    bench = ShadowBench()

    assert kinds(bench.run_shadow()) == ["Persist", "Shadow"]

    assert bench.state("d2") == "shadowing"
    assert bench.serving() == {"d1"}
    assert {r.deployment_id: r.state for r in bench.snapshot.records}["d2"] is DeploymentState.SHADOWING
    assert bench.report().outcome is ShadowOutcome.RUNNING


def test_core_whose_shadow_agrees_activates_it_without_another_start() -> None:
    bench = ShadowBench()
    bench.run_shadow()
    assert bench.compared(found(40, 40)) == [ev.Report()]
    assert bench.compared(found(60, 60)) == [], "only the first samples are news"

    actions = bench.compared(found(99))

    assert kinds(actions) == ["Persist", "Activate"]
    assert bench.state("d2") == "active"
    assert bench.report().outcome is ShadowOutcome.AGREED
    assert bench.core.next_due_s is None


@pytest.mark.parametrize(
    ("report", "reason", "words"),
    [
        (found(80), Reason.SHADOW_DISAGREES, "80 of 100 samples agree"),
        (found(100, errors=1), Reason.SHADOW_FAILED, "no finite answer to 1 of 101 requests"),
    ],
    ids=["disagrees", "fails"],
)
def test_core_whose_shadow_is_bad_rejects_it_and_the_active_one_never_stops_answering(
    report: ShadowReport, reason: Reason, words: str
) -> None:
    bench = ShadowBench()
    bench.run_shadow()

    actions = bench.compared(report)

    assert kinds(actions) == ["Persist", "StopRunner"]
    assert stops(actions) == {"d2": ev.Leave.NOTHING}
    assert (bench.state("d2"), bench.reason("d2")) == ("rejected", reason)
    assert words in bench.detail()
    assert bench.serving() == {"d1"}
    bench.tell(ev.RunnerExited("d2"))
    assert kinds(bench.tick(3600)) == []
    assert bench.state("d2") == "rejected"


def test_core_whose_shadow_got_no_requests_activates_at_the_deadline_and_says_so() -> None:
    bench = ShadowBench()
    bench.run_shadow()
    assert bench.core.next_due_s == bench.now_s + PLAN.deadline_s
    assert kinds(bench.tick(PLAN.deadline_s - 1)) == []

    assert kinds(bench.tick(1)) == ["Persist", "Activate"]

    assert bench.state("d2") == "active"
    assert bench.report().outcome is ShadowOutcome.INCONCLUSIVE
    assert "0 of 100 samples were compared within 1800 s: no request came" in bench.report().detail


def test_core_whose_plan_holds_waits_beyond_the_deadline_for_enough_samples() -> None:
    bench = ShadowBench()
    bench.run_shadow(PLAN.model_copy(update={"hold": True}))
    assert kinds(bench.tick(PLAN.deadline_s)) == []
    assert bench.core.next_due_s is None, "nothing to wake up for"
    assert bench.state("d2") == "shadowing"

    assert kinds(bench.compared(found(100))) == ["Persist", "Activate"]


def test_core_killed_in_a_shadow_serves_the_active_one_first_and_then_repeats_the_shadow() -> None:
    bench = ShadowBench()
    bench.run_shadow()
    bench.compared(found(50, 50))

    started = [a.deployment_id for a in bench.restart() if isinstance(a, ev.StartRunner)]
    assert started == ["d1"]
    bench.prove("d1")
    assert bench.state("d2") == "self_testing"
    assert kinds(bench.tell(ev.RunnerProven("d2", PROOF))) == ["Persist", "Shadow"]

    assert bench.report().samples == 0
    assert bench.serving() == {"d1"}


def test_core_interrupted_in_each_shadow_activates_in_the_end_and_no_self_test_counts_as_a_crash() -> None:
    bench = ShadowBench()
    bench.run_shadow()
    for _ in range(SHADOW_LIMIT - 1):
        bench.restart()
        bench.prove("d1")
        bench.tell(ev.RunnerProven("d2", PROOF))
        assert bench.state("d2") == "shadowing"

    bench.restart()
    bench.prove("d1")
    bench.prove("d2")

    assert bench.state("d2") == "active"
    assert bench.report().outcome is ShadowOutcome.SKIPPED
    assert "each was interrupted" in bench.report().detail


def test_core_superseding_a_shadow_kills_it_at_once() -> None:
    bench = ShadowBench()
    bench.run_shadow()

    actions = bench.want(3, {"d3": THREE})

    assert stops(actions) == {"d2": ev.Leave.NOTHING}
    assert bench.state("d2") == "superseded"
    assert bench.core.next_due_s is None
    assert bench.compared(found(100)) == [], "its last words change nothing"
    assert bench.serving() == {"d1"}


def test_core_whose_shadow_crashes_tries_again_and_refuses_it_when_it_goes_on() -> None:
    bench = ShadowBench()
    bench.run_shadow()
    for _ in range(2):
        bench.tell(ev.RunnerExited("d2", "killed by SIGSEGV"))
        assert (bench.state("d2"), bench.reason("d2")) == ("failed", Reason.RUNNER_CRASHED)
        assert "while it ran as a shadow: killed by SIGSEGV" in bench.detail()
        bench.tick(3600)
        bench.tell(ev.RunnerProven("d2", PROOF))

    bench.tell(ev.RunnerExited("d2", "killed by SIGSEGV"))

    assert bench.state("d2") == "rejected"
    assert bench.report().outcome is ShadowOutcome.FAILED
    assert bench.serving() == {"d1"}


def test_core_without_room_for_two_swaps_without_a_shadow_and_says_so() -> None:
    bench = ShadowBench()
    bench.run_through(1, "d1", ONE)
    bench.memory_bytes = 1 << 20
    bench.want_shadow()
    started = [a for a in bench.tell(ev.RunnerExited("d1")) if isinstance(a, ev.StartRunner)]
    assert [action.shadow for action in started] == [None]

    bench.prove("d2")

    assert bench.state("d2") == "active"
    assert (bench.report().outcome, bench.report().detail) == (ShadowOutcome.SKIPPED, NO_ROOM)


def test_core_without_anything_to_compare_with_swaps_at_once_and_says_why() -> None:
    bench = ShadowBench()
    bench.want_shadow()
    bench.prove("d2")

    assert bench.state("d2") == "active"
    assert "nothing answers for this model yet" in bench.report().detail


def test_core_whose_variant_has_another_signature_swaps_at_once_and_says_why() -> None:
    other = make_variant(version="4")
    signature = other.manifest.signature.model_copy(
        update={"inputs": (other.manifest.signature.inputs[0].model_copy(update={"shape": (-1, 3)}),)}
    )
    bench = ShadowBench()
    bench.run_through(1, "d1", ONE)
    changed = ToyVariant(other.manifest.model_copy(update={"signature": signature}), other.travelling)
    bench.want_shadow(variant=changed)
    bench.prove("d2")

    assert bench.state("d2") == "active"
    assert "signature is another" in bench.report().detail


def test_core_whose_active_one_fails_for_good_lets_the_shadow_answer() -> None:
    bench = ShadowBench()
    bench.run_shadow()
    for _ in range(10):
        bench.tell(ev.RunnerExited("d1", "killed by SIGSEGV"))
        bench.tick(60)

    assert bench.state("d1") == "superseded" or bench.state("d1") == "rolled_back"
    assert bench.state("d2") == "active"
    assert "the active version has failed for good" in bench.report().detail


@pytest.mark.parametrize(
    ("report", "over", "outcome"),
    [
        (found(10, 10), False, ShadowOutcome.RUNNING),
        (found(0, 0), True, ShadowOutcome.INCONCLUSIVE),
        (found(0, 1), True, ShadowOutcome.INCONCLUSIVE),
        (found(0, 2), True, ShadowOutcome.DISAGREED),
        (found(29, 30), True, ShadowOutcome.INCONCLUSIVE),
        (found(95), False, ShadowOutcome.AGREED),
        (found(92), False, ShadowOutcome.AGREED),
        (found(88), False, ShadowOutcome.DISAGREED),
        (found(0, 0, errors=1), True, ShadowOutcome.FAILED),
    ],
    ids=str,
)
def test_verdict_speaks_against_a_shadow_only_beyond_chance(
    report: ShadowReport,
    over: bool,  # noqa: FBT001  named by the parameters
    outcome: ShadowOutcome,
) -> None:
    assert judged(PLAN, report, over=over).outcome is outcome


def test_verdict_on_requests_too_large_to_be_copied_names_them() -> None:
    assert "7 requests were too large" in judged(PLAN, found(0, 0, too_large=7), over=True).detail


def test_chance_of_agreeing_is_the_binomial_distribution() -> None:
    assert chance_of_agreeing(2, 3, share=0.5) == pytest.approx(7 / 8)
    assert chance_of_agreeing(0, 3, share=0.5) == pytest.approx(1 / 8)
    assert chance_of_agreeing(3, 3, share=0.5) == 1.0
    assert chance_of_agreeing(9_999, 10_000, share=1.0) == 0.0
    assert 0 < chance_of_agreeing(9_700, 10_000, share=0.98) < 1e-9
