"""What shall lie ready: fetched, proven where nobody is put out by it, kept over restarts, and activated at a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.deployments import events as ev
from edge_agent.deployments.records import Deferral
from edge_agent.protocol.messages import Desired
from edge_agent.protocol.shadow import ShadowPlan
from edge_agent.protocol.states import DeploymentState, Reason
from tests.edge_agent.deployments.test_core import ONE, OTHER, PROOF, THREE, TWO, Bench, kinds, stops

if TYPE_CHECKING:
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

TIGHT_BYTES = 1 << 20


class StageBench(Bench):
    """A core whose `d1` answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.run_through(1, "d1", ONE)

    def stage(
        self,
        generation: int = 2,
        *,
        running: dict[str, ToyVariant] | None = None,
        staged: dict[str, ToyVariant] | None = None,
        shadow: ShadowPlan | None = None,
        max_defer_s: float = 0.0,
    ) -> list[ev.Action]:
        changes = {"shadow": shadow, "max_defer_s": max_defer_s}
        desired = Desired(
            epoch=1,
            generation=generation,
            deployments=tuple(v.wanted(n) for n, v in (running or {"d1": ONE}).items()),
            staged=tuple(v.wanted(n).model_copy(update=changes) for n, v in (staged or {"d2": TWO}).items()),
        )
        return self.tell(ev.DesiredReceived(desired))

    def lay_ready(self) -> None:
        self.stage()
        self.give_manifest(TWO)
        self.give_object(TWO)
        self.install(TWO)
        self.tell(ev.RunnerProven("d2", PROOF))
        self.tell(ev.RunnerExited("d2"))

    def activate(self, generation: int = 3) -> list[ev.Action]:
        return self.want(generation, {"d2": TWO})

    def told(self, name: str = "d2") -> tuple[DeploymentState, Reason]:
        return self.state(name), self.reason(name)

    def detail(self, name: str = "d2") -> str:
        return next(s.detail for s in self.core.statuses() if s.deployment_id == name)


def starts(actions: list[ev.Action]) -> list[str]:
    return [action.deployment_id for action in actions if isinstance(action, ev.StartRunner)]


def test_core_told_to_lay_something_ready_fetches_proves_and_holds_it_while_the_active_one_answers() -> None:
    bench = StageBench()
    assert kinds(bench.stage()) == ["Persist", "FetchManifest"]
    assert kinds(bench.give_manifest(TWO)) == ["Persist", "StartTransfer"]
    assert kinds(bench.give_object(TWO)) == ["Persist", "Unpack"]
    assert starts(bench.install(TWO)) == ["d2"]

    actions = bench.tell(ev.RunnerProven("d2", PROOF))

    assert kinds(actions) == ["Persist", "StopRunner"]
    assert stops(actions) == {"d2": ev.Leave.NOTHING}
    assert bench.told() == ("staged", Reason.HELD)
    assert bench.detail() == "proven here"
    assert bench.serving() == {"d1"}
    assert kinds(bench.tell(ev.RunnerExited("d2"))) == []
    assert kinds(bench.tick(1e6)) == []
    status = next(s for s in bench.core.statuses() if s.deployment_id == "d2")
    assert status.self_test == PROOF
    assert status.bytes_done == status.bytes_total > 0


def test_core_told_to_activate_fetches_nothing_and_swaps() -> None:
    bench = StageBench()
    bench.lay_ready()

    actions = bench.activate()

    assert kinds(actions) == ["Persist", "Persist", "StartRunner"]
    assert bench.state("d1") == "active"
    assert kinds(bench.prove("d2")) == ["Persist", "Activate"]
    assert bench.told() == ("active", Reason.NONE)
    assert bench.state("d1") == "superseded"
    assert bench.serving() == {"d2"}
    received = next(s.bytes_received for s in bench.core.statuses() if s.deployment_id == "d2")
    assert received == len(TWO.travelling)


def test_core_killed_while_something_lies_ready_still_holds_it_and_fetches_nothing_again() -> None:
    bench = StageBench()
    bench.lay_ready()

    assert starts(bench.restart()) == ["d1"]
    bench.prove("d1")

    assert bench.told() == ("staged", Reason.HELD)
    assert kinds(bench.activate()) == ["Persist", "Persist", "StartRunner"]


def test_core_killed_during_the_self_test_ahead_proves_it_once_more() -> None:
    bench = StageBench()
    bench.stage()
    bench.give_manifest(TWO)
    bench.give_object(TWO)
    bench.install(TWO)
    assert bench.state("d2") == "self_testing"

    bench.restart()
    actions = bench.tell(ev.RunnerProven("d1", PROOF))

    assert starts(actions) == ["d2"]
    bench.tell(ev.RunnerProven("d2", PROOF))
    assert bench.told() == ("staged", Reason.HELD)


def test_core_told_to_activate_during_the_self_test_ahead_tests_again_and_swaps() -> None:
    bench = StageBench()
    bench.stage(shadow=ShadowPlan(deadline_s=60))
    bench.give_manifest(TWO)
    bench.give_object(TWO)
    bench.install(TWO)
    assert kinds(bench.activate()) == ["Persist"]

    assert kinds(bench.tell(ev.RunnerProven("d2", PROOF))) == ["Persist", "StopRunner"]
    assert bench.told() == ("staged", Reason.NONE)
    assert starts(bench.tell(ev.RunnerExited("d2"))) == ["d2"]
    bench.prove("d2")

    assert bench.state("d2") == "active"


def test_core_told_to_activate_what_is_still_coming_goes_on_and_swaps() -> None:
    bench = StageBench()
    bench.stage()
    bench.give_manifest(TWO)
    assert kinds(bench.activate()) == ["Persist"]

    bench.give_object(TWO)
    assert starts(bench.install(TWO)) == ["d2"]
    bench.prove("d2")

    assert bench.serving() == {"d2"}


def test_core_without_room_for_two_runners_holds_it_unproven_and_stops_nobody() -> None:
    bench = StageBench(memory_bytes=TIGHT_BYTES)
    bench.stage()
    bench.give_manifest(TWO)
    bench.give_object(TWO)

    assert kinds(bench.install(TWO)) == ["Persist"]

    assert bench.told() == ("staged", Reason.HELD)
    assert bench.detail() == "RAM holds no second runner, so it is proven when it is activated"
    assert bench.serving() == {"d1"}
    assert stops(bench.activate()) == {"d1": ev.Leave.REQUESTS}


def test_core_whose_variant_fails_the_self_test_ahead_refuses_it_before_anyone_is_asked_to_swap() -> None:
    bench = StageBench()
    bench.stage()
    bench.give_manifest(TWO)
    bench.give_object(TWO)
    bench.install(TWO)

    bench.tell(ev.RunnerRefused("d2", Reason.GOLDEN_MISMATCH, "output 0 differs", None))

    assert bench.told() == ("rejected", Reason.GOLDEN_MISMATCH)
    assert bench.serving() == {"d1"}


def test_core_whose_files_vanish_while_they_lie_ready_fetches_them_again() -> None:
    bench = StageBench()
    bench.lay_ready()
    del bench.installed[TWO.manifest_sha256]

    bench.restart()
    bench.prove("d1")

    assert bench.told()[0] == "failed"
    assert "FetchManifest" in kinds(bench.tick(60))


def test_core_told_of_another_to_lay_ready_drops_the_first_and_frees_its_files() -> None:
    bench = StageBench()
    bench.lay_ready()

    actions = bench.stage(3, staged={"d3": THREE})

    assert bench.state("d2") == "superseded"
    collected = [action for action in actions if isinstance(action, ev.CollectGarbage)]
    assert collected[-1].keep_manifests == {ONE.manifest_sha256, THREE.manifest_sha256}


def test_core_told_that_nothing_shall_lie_ready_any_more_frees_it() -> None:
    bench = StageBench()
    bench.lay_ready()

    actions = bench.want(3, {"d1": ONE})

    assert bench.state("d2") == "superseded"
    collected = [action for action in actions if isinstance(action, ev.CollectGarbage)]
    assert collected[-1].keep_manifests == {ONE.manifest_sha256}
    assert bench.serving() == {"d1"}


def test_core_that_runs_nothing_of_a_model_can_lay_it_ready_and_answers_only_once_it_is_activated() -> None:
    bench = StageBench()
    bench.stage(staged={"d9": OTHER})
    bench.give_manifest(OTHER)
    bench.give_object(OTHER)
    bench.install(OTHER)
    bench.tell(ev.RunnerProven("d9", PROOF))
    bench.tell(ev.RunnerExited("d9"))
    assert bench.told("d9") == ("staged", Reason.HELD)
    assert bench.core.active_models() == {"net"}

    bench.want(3, {"d1": ONE, "d9": OTHER})
    bench.prove("d9")

    assert bench.core.active_models() == {"net", "other"}


def test_core_that_is_updated_while_something_lies_ready_keeps_it() -> None:
    bench = StageBench()
    bench.lay_ready()
    bench.stage(3, running={"d3": THREE})
    bench.give_manifest(THREE)
    bench.give_object(THREE)
    bench.install(THREE)
    bench.prove("d3")

    assert bench.serving() == {"d3"}
    assert bench.told() == ("staged", Reason.HELD)


def test_core_asked_for_time_by_an_app_waits_with_the_self_test_ahead_and_its_limit_begins_at_the_activation() -> None:
    bench = StageBench()
    deferral = Deferral(token="a" * 32, for_s=60, until=bench.now_s + 60, reason="checkout running")
    bench.tell(ev.DeferAsked(deferral))
    bench.stage(max_defer_s=100)
    bench.give_manifest(TWO)
    bench.give_object(TWO)
    assert starts(bench.install(TWO)) == []
    assert bench.told() == ("staged", Reason.DEFERRED)

    assert starts(bench.tick(60)) == ["d2"]
    bench.tell(ev.RunnerProven("d2", PROOF))
    bench.tell(ev.RunnerExited("d2"))
    bench.tick(1000)
    bench.tell(ev.DeferAsked(deferral.model_copy(update={"for_s": 90.0})))
    wanted = TWO.wanted("d2").model_copy(update={"max_defer_s": 100.0})

    assert starts(bench.tell(ev.DesiredReceived(Desired(epoch=1, generation=3, deployments=(wanted,))))) == []
    assert bench.told() == ("staged", Reason.DEFERRED)
    assert starts(bench.tick(90)) == ["d2"]


def test_core_told_to_lay_ready_what_it_runs_changes_nothing() -> None:
    bench = StageBench()

    actions = bench.stage(staged={"d1": ONE})

    assert starts(actions) == []
    assert bench.serving() == {"d1"}
    assert bench.state("d1") == "active"
