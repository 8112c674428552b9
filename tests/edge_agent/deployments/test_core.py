"""The core, event by event: which actions follow, in which order, and what is left when they are not carried out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from edge_agent.deployments import events as ev
from edge_agent.deployments.acquire import Rules
from edge_agent.deployments.core import DeviceCore
from edge_agent.deployments.ledger import IllegalTransitionError, Ledger
from edge_agent.deployments.records import DeploymentRecord, Snapshot
from edge_agent.protocol.messages import Desired, DesiredDeployment, SelfTestReport
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.states import DeploymentState, Reason
from tests.edge_agent.surroundings.toy_variant import make_variant

if TYPE_CHECKING:
    from edge_agent.protocol.manifest import VariantManifest
    from tests.edge_agent.surroundings.toy_variant import ToyVariant

PROOF = SelfTestReport(passed=True, runtime=RuntimeName.LITERT, delegate=Delegate.NONE)
ONE, TWO, THREE = (make_variant(version=version) for version in "123")
OTHER = make_variant(model="other")


@dataclass
class Bench:
    """Drives a core by hand and keeps what it persisted."""

    rules: Rules = field(default_factory=Rules)
    installed: dict[str, VariantManifest] = field(default_factory=dict)
    memory_bytes: int | None = None
    now_s: float = 1000.0
    records: dict[str, DeploymentRecord] = field(default_factory=dict)
    last: list[ev.Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.snapshot = Snapshot()
        self.restart()

    def restart(self) -> list[ev.Action]:
        self.core = DeviceCore(self.snapshot, installed=self.installed, rules=self.rules, chance=lambda: 0.5)
        return self._took(self.core.start(self._moment()))

    def tell(self, event: ev.Event) -> list[ev.Action]:
        return self._took(self.core.handle(event, self._moment()))

    def want(self, generation: int, deployments: dict[str, ToyVariant], *, epoch: int = 1) -> list[ev.Action]:
        wanted = tuple(variant.wanted(name) for name, variant in deployments.items())
        return self.tell(ev.DesiredReceived(Desired(epoch=epoch, generation=generation, deployments=wanted)))

    def give_manifest(self, variant: ToyVariant) -> list[ev.Action]:
        return self.tell(ev.ManifestArrived(variant.manifest_sha256, variant.manifest))

    def give_object(self, variant: ToyVariant) -> list[ev.Action]:
        return self.tell(ev.TransferDone(variant.object_sha256, len(variant.travelling)))

    def install(self, variant: ToyVariant) -> list[ev.Action]:
        self.installed[variant.manifest_sha256] = variant.manifest
        return self.tell(ev.Unpacked(variant.manifest_sha256))

    def prove(self, name: str) -> list[ev.Action]:
        actions = self.tell(ev.RunnerProven(name, PROOF))
        return [*actions, *self.tell(ev.RunnerServing(name))]

    def run_through(self, generation: int, name: str, variant: ToyVariant) -> None:
        self.want(generation, {name: variant})
        self.give_manifest(variant)
        self.give_object(variant)
        self.install(variant)
        self.prove(name)

    def tick(self, seconds: float) -> list[ev.Action]:
        self.now_s += seconds
        return self.tell(ev.Tick())

    def state(self, name: str) -> DeploymentState:
        return next(s.state for s in self.core.statuses() if s.deployment_id == name)

    def reason(self, name: str) -> Reason:
        return next(s.reason for s in self.core.statuses() if s.deployment_id == name)

    def serving(self) -> set[str]:
        return {s.deployment_id for s in self.core.statuses() if s.serving}

    def _moment(self) -> ev.Moment:
        return ev.Moment(now_s=self.now_s, unix_s=self.now_s, memory_available_bytes=self.memory_bytes)

    def _took(self, actions: list[ev.Action]) -> list[ev.Action]:
        records = {r.deployment_id: r for r in self.snapshot.records}
        slots = {s.model: s for s in self.snapshot.slots}
        accepted, deferrals = self.snapshot.accepted, self.snapshot.deferrals
        for action in actions:
            if isinstance(action, ev.Persist):
                records.update({r.deployment_id: r for r in action.records})
                for name in action.forgotten:
                    records.pop(name, None)
                slots.update({s.model: s for s in action.slots})
                for model in action.emptied:
                    slots.pop(model, None)
                accepted = action.accepted or accepted
                deferrals = deferrals if action.deferrals is None else action.deferrals
        self.snapshot = Snapshot(
            accepted=accepted,
            records=tuple(records.values()),
            slots=tuple(slots.values()),
            deferrals=deferrals,
        )
        self.last = actions
        return actions


def kinds(actions: list[ev.Action]) -> list[str]:
    quiet = (ev.Report, ev.CollectGarbage, ev.SetWindow)
    return [type(action).__name__ for action in actions if not isinstance(action, quiet)]


def stops(actions: list[ev.Action]) -> dict[str, ev.Leave]:
    return {action.deployment_id: action.after for action in actions if isinstance(action, ev.StopRunner)}


def test_core_told_of_a_model_walks_the_whole_road_persisting_before_each_act() -> None:
    bench = Bench()
    assert kinds(bench.want(1, {"d1": ONE})) == ["Persist", "FetchManifest"]
    assert kinds(bench.give_manifest(ONE)) == ["Persist", "StartTransfer"]
    assert kinds(bench.give_object(ONE)) == ["Persist", "Unpack"]
    assert kinds(bench.install(ONE)) == ["Persist", "StartRunner"]
    assert bench.state("d1") == "self_testing"
    assert kinds(bench.prove("d1")) == ["Persist", "Activate"]
    assert bench.state("d1") == "active"
    assert bench.serving() == {"d1"}


def test_core_updating_retires_the_old_runner_only_after_the_new_one_is_proven() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)

    activated = [a for a in bench.tell(ev.Tick()) if isinstance(a, ev.StopRunner)]

    assert not activated
    assert bench.state("d1") == "superseded"
    assert bench.snapshot.slots[0].previous == "d1"
    assert bench.serving() == {"d2"}


@pytest.mark.parametrize("order", [(1, 1), (1, 2), (0, 9)], ids=["older-generation", "same-generation", "older-epoch"])
def test_core_told_of_what_is_not_later_changes_nothing(order: tuple[int, int]) -> None:
    bench = Bench()
    bench.run_through(2, "d2", TWO)
    before = bench.snapshot

    actions = bench.want(order[1], {"d1": ONE}, epoch=order[0])

    assert actions == []
    assert bench.snapshot == before
    assert bench.core.ignored_desired == 1


def test_core_with_a_newer_epoch_and_a_lower_generation_accepts_it() -> None:
    bench = Bench()
    bench.run_through(7, "d1", ONE)
    bench.want(1, {"d2": TWO}, epoch=2)
    assert bench.core.accepted.order == (2, 1)
    assert bench.state("d2") == "queued"


def test_core_superseding_an_unfinished_transfer_cancels_it_and_keeps_its_blocks() -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)

    actions = bench.want(2, {"d2": TWO})

    assert kinds(actions) == ["Persist", "CancelTransfer", "FetchManifest"]
    garbage = [a for a in actions if isinstance(a, ev.CollectGarbage)]
    assert all(a.keep_objects is None for a in garbage), "the next manifest may name the same object"
    assert bench.state("d1") == "superseded"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.TRANSFER_FAILED, "failed"),
        (Reason.DISK_FULL, "failed"),
        (Reason.OBJECT_NOT_FOUND, "failed"),
        (Reason.OBJECT_GONE, "rejected"),
        (Reason.DIGEST_MISMATCH, "rejected"),
    ],
)
def test_core_whose_transfer_fails_retries_only_what_may_change(reason: Reason, expected: str) -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)

    bench.tell(ev.TransferFailed(ONE.object_sha256, reason, "why", 10))

    assert bench.state("d1") == expected
    assert (bench.core.next_due_s is not None) == (expected == "failed")
    again = kinds(bench.tick(3600))
    assert again == (["Persist", "StartTransfer"] if expected == "failed" else [])


def test_core_whose_source_refuses_says_so_and_asks_no_more_until_a_later_desired_state() -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)

    bench.tell(ev.TransferFailed(ONE.object_sha256, Reason.TRANSFER_FAILED, "status 400", again=False))

    assert bench.state("d1") == "failed"
    assert bench.core.next_due_s is None
    assert kinds(bench.tick(3600)) == []
    bench.want(2, {"d1": ONE})
    assert kinds(bench.tick(10)) == ["Persist", "StartTransfer"]


def test_core_failing_on_the_network_again_and_again_gives_up_and_begins_anew_when_told_later_or_restarted() -> None:
    bench = Bench(rules=Rules(try_limit=3))
    bench.want(1, {"d1": ONE})
    for _ in range(3):
        bench.tell(ev.ManifestFailed(ONE.manifest_sha256, Reason.TRANSFER_FAILED, "no answer"))
        bench.tick(3600)
    status = bench.core.statuses()[0]
    assert (status.state, status.attempt) == ("failed", 2)
    assert status.detail == "given up after 3 tries: no answer"
    assert bench.core.next_due_s is None

    bench.restart()
    assert "FetchManifest" in kinds(bench.tick(3600)), "a restart tries once more"
    bench.tell(ev.ManifestFailed(ONE.manifest_sha256, Reason.TRANSFER_FAILED, "no answer"))
    assert bench.core.next_due_s is None

    bench.want(2, {"d1": ONE})
    assert "FetchManifest" in kinds(bench.tick(10))
    assert bench.core.statuses()[0].attempt == 1, "it is counted from the beginning"


def test_core_told_of_the_same_variant_by_another_deployment_goes_on_with_its_transfer() -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)

    actions = bench.want(2, {"d2": ONE})

    assert kinds(actions) == ["Persist"], "neither cancelled nor begun again"
    assert (bench.state("d1"), bench.state("d2")) == ("superseded", "downloading")
    assert kinds(bench.give_object(ONE)) == ["Persist", "Unpack"]
    bench.install(ONE)
    bench.prove("d2")
    assert bench.state("d2") == "active"


def test_core_failing_again_and_again_waits_longer_up_to_the_cap() -> None:
    bench = Bench(rules=Rules(try_limit=100))
    bench.want(1, {"d1": ONE})
    waits = []
    for _ in range(12):
        bench.tell(ev.ManifestFailed(ONE.manifest_sha256, Reason.TRANSFER_FAILED))
        waits.append((bench.core.next_due_s or 0) - bench.now_s)
        bench.tick(waits[-1])
    assert waits == sorted(waits)
    assert waits[0] < 5
    assert waits[-1] == waits[-2] == 450  # three quarters of the cap: `chance` is one half


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.GOLDEN_MISMATCH, "rejected"),
        (Reason.LATENCY_LIMIT, "rejected"),
        (Reason.MEMORY_LIMIT, "rejected"),
        (Reason.RUNTIME_MISSING, "rejected"),
        (Reason.INTERNAL, "failed"),
    ],
)
def test_core_whose_new_runner_refuses_keeps_the_old_one_serving(reason: Reason, expected: str) -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.want(2, {"d2": TWO})
    bench.give_manifest(TWO)
    bench.give_object(TWO)
    bench.install(TWO)

    bench.tell(ev.RunnerRefused("d2", reason, "why"))

    assert bench.state("d2") == expected
    assert bench.state("d1") == "active"
    assert bench.serving() == {"d1"}


def test_core_whose_new_runner_crashes_in_its_self_test_gives_up_after_the_limit() -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)
    bench.give_object(ONE)
    bench.install(ONE)
    for _ in range(2):
        bench.tell(ev.RunnerExited("d1", "killed by SIGSEGV"))
        assert bench.state("d1") == "failed"
        bench.tick(3600)
        assert bench.state("d1") == "self_testing"
    bench.tell(ev.RunnerExited("d1", "killed by SIGSEGV"))
    assert (bench.state("d1"), bench.reason("d1")) == ("rejected", "runner_crashed")


def test_core_killed_in_every_self_test_counts_them_and_gives_up() -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)
    bench.give_object(ONE)
    bench.install(ONE)
    bench.restart()
    bench.restart()
    bench.restart()
    assert (bench.state("d1"), bench.reason("d1")) == ("rejected", "runner_crashed")


def test_core_whose_active_runner_crashes_restarts_it_after_a_growing_wait() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    assert kinds(bench.tell(ev.RunnerExited("d1", "exit code 1"))) == []
    first = (bench.core.next_due_s or 0) - bench.now_s
    assert kinds(bench.tick(first)) == ["StartRunner"]
    bench.prove("d1")
    bench.tell(ev.RunnerHung("d1", "silent"))
    assert (bench.core.next_due_s or 0) - bench.now_s > first
    assert bench.state("d1") == "active"


def test_core_whose_proven_variant_is_refused_at_boot_tries_again_before_it_counts() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)
    bench.restart()
    assert kinds(bench.tell(ev.RunnerRefused("d2", Reason.MEMORY_LIMIT, "no memory"))) == []
    assert bench.state("d2") == "active"
    assert kinds(bench.tick(60)) == ["StartRunner"]
    bench.prove("d2")
    assert bench.serving() == {"d2"}


def test_core_whose_proven_variant_is_refused_again_and_again_falls_back_and_says_why() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)
    bench.restart()
    for _ in range(bench.rules.crash_limit):
        bench.tell(ev.RunnerRefused("d2", Reason.LOAD_FAILED, "no such operator"))
        bench.tick(60)
    assert (bench.state("d2"), bench.reason("d2")) == ("rolled_back", "load_failed")
    bench.prove("d1")
    assert bench.serving() == {"d1"}


def test_core_on_a_device_without_room_for_a_process_blames_no_variant() -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)
    bench.give_object(ONE)
    bench.install(ONE)
    for _ in range(10):
        bench.tell(ev.RunnerNotStarted("d1", "no memory"))
        assert (bench.state("d1"), bench.reason("d1")) == ("failed", "internal")
        bench.tick(3600)
    bench.prove("d1")
    for _ in range(10):
        bench.tell(ev.RunnerExited("d1") if bench.serving() else ev.RunnerNotStarted("d1", "no memory"))
        assert bench.state("d1") == "active"
        assert kinds(bench.tick(60)) == ["StartRunner"]


def test_core_in_a_crash_loop_falls_back_without_any_network() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)
    for _ in range(bench.rules.crash_limit):
        actions = bench.tell(ev.RunnerExited("d2", "exit code 1"))
        if bench.state("d2") == "active":
            actions = bench.tick(60)
    assert kinds(actions) == ["Persist", "StopRunner"], "its old runner still answers somebody: it shall hurry"
    assert stops(actions) == {"d1": ev.Leave.REQUESTS}
    assert (bench.state("d2"), bench.reason("d2")) == ("rolled_back", "crash_loop")
    assert kinds(bench.tell(ev.RunnerExited("d1"))) == ["StartRunner"]
    bench.prove("d1")
    assert bench.state("d1") == "active"
    assert bench.serving() == {"d1"}


def test_core_in_a_crash_loop_with_nothing_before_it_says_so() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    for _ in range(bench.rules.crash_limit):
        bench.tell(ev.RunnerExited("d1", "exit code 1"))
        actions = bench.last
        bench.tick(60)
    assert "Deactivate" in kinds(actions)
    assert bench.state("d1") == "rolled_back"
    assert bench.snapshot.slots == ()


def test_core_without_room_for_two_stops_the_old_one_first_and_restores_it_on_failure() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.memory_bytes = 1 << 20
    bench.want(2, {"d2": TWO})
    bench.give_manifest(TWO)
    bench.give_object(TWO)
    assert kinds(bench.install(TWO)) == ["Persist", "StopRunner"]
    assert stops(bench.last) == {"d1": ev.Leave.REQUESTS}, "idle connections must not hold up the swap"
    assert kinds(bench.tell(ev.RunnerExited("d1"))) == ["StartRunner"]
    assert kinds(bench.tell(ev.RunnerRefused("d2", Reason.GOLDEN_MISMATCH))) == ["Persist", "StartRunner"]
    bench.prove("d1")
    assert bench.serving() == {"d1"}


def test_core_without_room_told_to_keep_the_old_one_restores_it() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.memory_bytes = 1 << 20
    bench.want(2, {"d2": TWO})
    bench.give_manifest(TWO)
    bench.give_object(TWO)
    bench.install(TWO)

    bench.want(3, {"d1": ONE})  # while the old runner is leaving
    bench.tell(ev.RunnerExited("d1"))

    assert [a.deployment_id for a in bench.last if isinstance(a, ev.StartRunner)] == ["d1"]
    bench.prove("d1")
    assert bench.state("d2") == "superseded"
    assert bench.serving() == {"d1"}


def test_core_told_to_run_a_model_no_more_stops_it_and_forgets_the_pointer() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)

    assert kinds(bench.want(3, {})) == ["Persist", "Deactivate", "StopRunner"]
    assert bench.state("d2") == "superseded"
    assert bench.snapshot.slots == ()
    garbage = bench.last[[type(a) for a in bench.last].index(ev.CollectGarbage)]
    assert isinstance(garbage, ev.CollectGarbage)
    assert garbage.keep_manifests == frozenset()


def test_core_told_to_go_back_uses_the_variant_that_is_still_on_the_disk() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)
    bench.tell(ev.RunnerExited("d1"))

    assert set(kinds(bench.want(3, {"d3": ONE}))) == {"Persist", "StartRunner"}
    bench.prove("d3")
    assert bench.serving() == {"d3"}
    assert bench.snapshot.slots[0].previous == "d2"


def test_core_told_to_go_back_to_a_superseded_deployment_runs_it_again() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)
    bench.tell(ev.RunnerExited("d1"))
    bench.want(3, {"d1": ONE})
    bench.prove("d1")
    assert bench.state("d1") == "active"
    assert bench.state("d2") == "superseded"


def test_core_testing_two_models_at_once_tests_them_one_after_the_other() -> None:
    bench = Bench()
    bench.want(1, {"d1": ONE, "e1": OTHER})
    for variant in (ONE, OTHER):
        bench.give_manifest(variant)
        bench.give_object(variant)
        bench.install(variant)
    assert [bench.state(name) for name in ("d1", "e1")] == ["self_testing", "staged"]
    bench.prove("d1")
    assert bench.state("e1") == "self_testing"


def test_core_given_a_manifest_larger_than_the_budget_rejects_it() -> None:
    bench = Bench(rules=Rules(storage_budget_bytes=100))
    bench.want(1, {"d1": ONE})
    bench.give_manifest(ONE)
    assert (bench.state("d1"), bench.reason("d1")) == ("rejected", "storage_budget")


def test_core_without_the_runtime_rejects_before_fetching() -> None:
    bench = Bench(rules=Rules(runtimes=frozenset({RuntimeName.TFLITE})))
    bench.want(1, {"d1": ONE})
    assert "StartTransfer" not in kinds(bench.give_manifest(ONE))
    assert bench.reason("d1") == "runtime_missing"


def test_core_restarted_with_the_active_files_gone_says_so_and_falls_back() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)
    del bench.installed[TWO.manifest_sha256]

    actions = bench.restart()

    assert bench.state("d2") == "rolled_back"
    assert [a.deployment_id for a in actions if isinstance(a, ev.StartRunner)] == ["d1"]


def test_core_whose_files_rotted_before_the_self_test_fetches_them_again() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.run_through(2, "d2", TWO)
    bench.want(3, {"d3": ONE})  # still on the disk, or so it seems
    bench.tell(ev.RunnerRefused("d3", Reason.DIGEST_MISMATCH, "sha256 is other"))

    assert (bench.state("d3"), bench.reason("d3")) == (DeploymentState.FAILED, Reason.INTERNAL)
    garbage = next(action for action in bench.last if isinstance(action, ev.CollectGarbage))
    assert ONE.manifest_sha256 not in garbage.keep_manifests
    assert TWO.manifest_sha256 in garbage.keep_manifests
    assert "FetchManifest" in kinds(bench.tick(10.0))
    bench.give_manifest(ONE)
    bench.give_object(ONE)
    bench.install(ONE)
    bench.prove("d3")
    assert bench.serving() == {"d3"}


def test_core_whose_active_files_rotted_falls_back_and_can_have_the_same_variant_again() -> None:
    bench = Bench()
    bench.run_through(1, "d1", ONE)
    bench.restart()
    bench.tell(ev.RunnerRefused("d1", Reason.DIGEST_MISMATCH, "sha256 is other"))
    assert (bench.state("d1"), bench.reason("d1")) == (DeploymentState.ROLLED_BACK, Reason.DIGEST_MISMATCH)
    assert "FetchManifest" in kinds(bench.want(2, {"d2": ONE}))


def test_core_told_of_deployments_it_does_not_know_does_nothing() -> None:
    bench = Bench()
    for event in (
        ev.RunnerProven("ghost", PROOF),
        ev.RunnerExited("ghost"),
        ev.RunnerHung("ghost"),
        ev.RunnerServing("ghost"),
        ev.RunnerRefused("ghost", Reason.INTERNAL),
        ev.RunnerBeat("ghost", 5),
        ev.TransferDone("0" * 64),
        ev.TransferFailed("0" * 64, Reason.DISK_FULL),
        ev.Unpacked("0" * 64),
        ev.UnpackFailed("0" * 64, Reason.INTERNAL),
        ev.ManifestArrived("0" * 64, ONE.manifest),
        ev.ManifestFailed("0" * 64, Reason.INTERNAL),
    ):
        assert kinds(bench.tell(event)) == []


def test_ledger_asked_for_a_step_that_the_table_lacks_refuses() -> None:
    wanted = DesiredDeployment.model_validate(ONE.wanted("d1").model_dump())
    record = DeploymentRecord(wanted=wanted, state=DeploymentState.REJECTED)
    with pytest.raises(IllegalTransitionError, match="rejected -> active is no step"):
        Ledger(Snapshot(records=(record,))).move(record, DeploymentState.ACTIVE)
