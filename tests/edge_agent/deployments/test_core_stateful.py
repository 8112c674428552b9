"""Any order of desired states, answers, crashes of runners and kills of the supervisor ends in the wanted state.

The world below is a device that obeys the core: it carries actions out one by one, and may be killed between any two.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.deployments import events as ev
from edge_agent.deployments.acquire import Rules
from edge_agent.deployments.core import DeviceCore
from edge_agent.deployments.records import Snapshot
from edge_agent.protocol.messages import Desired, SelfTestReport
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.shadow import ShadowPlan, ShadowReport
from edge_agent.protocol.states import DeploymentState, Reason
from tests.edge_agent.surroundings.toy_variant import make_variant

if TYPE_CHECKING:
    from edge_agent.protocol.manifest import VariantManifest

PROOF = SelfTestReport(passed=True, runtime=RuntimeName.LITERT, delegate=Delegate.NONE)
VARIANTS = [make_variant(model=model, version=version) for model in ("net", "other") for version in "123"]
BY_MANIFEST = {variant.manifest_sha256: variant for variant in VARIANTS}
SHADOWS = [None, ShadowPlan(deadline_s=300), ShadowPlan(deadline_s=600, samples=10)]
AGREED = ShadowReport(requests=50, sampled=10, samples=10, agreed=10)
TROUBLE = [Reason.TRANSFER_FAILED, Reason.DISK_FULL, Reason.INTERNAL]


class World(RuleBasedStateMachine):
    """The disk, the network and the processes of one device."""

    @initialize(seed=st.integers(0, 1 << 30), tight=st.booleans())
    def boot(self, seed: int, tight: bool) -> None:  # noqa: FBT001  hypothesis names it
        self.random = random.Random(seed)
        self.memory_bytes = 1 << 20 if tight else 1 << 33
        self.now_s = 0.0
        self.generation = 0
        self.sent: list[Desired] = []
        self.snapshot = Snapshot()
        self.disk: dict[str, VariantManifest] = {}
        self.accepted_ever = (0, 0)
        self._start()

    def _start(self) -> None:
        self.manifests: list[str] = []
        self.transfers: set[str] = set()
        self.unpacking: list[str] = []
        self.runners: dict[str, str] = {}  # deployment -> starting | proven | serving | leaving
        self.pointers: dict[str, str] = {}
        rules = Rules(crash_limit=1000, self_test_limit=1000)
        self.core = DeviceCore(self.snapshot, installed=self.disk, rules=rules, chance=self.random.random)
        self._carry_out(self.core.start(self._moment()))

    def _moment(self) -> ev.Moment:
        return ev.Moment(self.now_s, self.now_s, self.memory_bytes)

    def _tell(self, event: ev.Event, *, dies_after: int | None = None) -> None:
        self._carry_out(self.core.handle(event, self._moment()), dies_after=dies_after)

    def _carry_out(self, actions: list[ev.Action], *, dies_after: int | None = None) -> None:
        for done, action in enumerate(actions):
            if dies_after is not None and done >= dies_after:
                self._start()
                return
            self._do(action)

    def _do(self, action: ev.Action) -> None:
        match action:
            case ev.Persist():
                records = {r.deployment_id: r for r in self.snapshot.records} | {
                    r.deployment_id: r for r in action.records
                }
                slots = {s.model: s for s in self.snapshot.slots} | {s.model: s for s in action.slots}
                self.snapshot = Snapshot(
                    accepted=action.accepted or self.snapshot.accepted,
                    records=tuple(r for name, r in records.items() if name not in action.forgotten),
                    slots=tuple(s for model, s in slots.items() if model not in action.emptied),
                )
            case ev.FetchManifest():
                self.manifests.append(action.manifest_sha256)
            case ev.StartTransfer():
                self.transfers.add(action.object.sha256)
            case ev.CancelTransfer():
                self.transfers.discard(action.object_sha256)
            case ev.Unpack():
                self.unpacking.append(action.manifest_sha256)
            case ev.CollectGarbage():
                self.disk = {sha: m for sha, m in self.disk.items() if sha in action.keep_manifests}
            case ev.SetWindow() | ev.Report():
                pass
            case _:
                self._do_runner(action)

    def _do_runner(self, action: ev.StartRunner | ev.Shadow | ev.StopRunner | ev.Activate | ev.Deactivate) -> None:
        match action:
            case ev.StartRunner():
                assert action.manifest_sha256 in self.disk, "a runner needs its files"
                assert action.deployment_id not in self.runners, "one runner for each deployment"
                self.runners[action.deployment_id] = "starting"
            case ev.Shadow():
                assert self.runners[action.deployment_id] == "proven", "only what is proven may run as a shadow"
                persisted = {r.deployment_id: r for r in self.snapshot.records}[action.deployment_id]
                assert persisted.state is DeploymentState.SHADOWING, "the state is on disk before the act"
            case ev.StopRunner():
                self.runners[action.deployment_id] = "leaving"
            case ev.Activate():
                assert self.runners[action.deployment_id] == "proven", "only what is proven may serve"
                persisted = {r.deployment_id: r for r in self.snapshot.records}[action.deployment_id]
                assert persisted.state is DeploymentState.ACTIVE, "the state is on disk before the act"
                assert not persisted.held, "what shall only lie ready answers nobody"
                self.runners[action.deployment_id] = "serving"
                self.pointers[action.manifest.model] = action.deployment_id
                if action.retire is not None:
                    self.runners[action.retire] = "leaving"
            case ev.Deactivate():
                self.pointers.pop(action.model, None)

    def _pick(self, names: list[str]) -> str:
        return names[self.random.randrange(len(names))]

    @rule(data=st.data())
    def registry_wants_something_new(self, data: st.DataObject) -> None:
        self.generation += 1
        chosen = {}
        for model in ("net", "other"):
            variant = data.draw(st.sampled_from([None, *(v for v in VARIANTS if v.manifest.model == model)]))
            if variant is not None:
                again = data.draw(st.booleans())
                name = f"{variant.manifest.variant_id}" + ("" if again else f"-{self.generation}")
                chosen[name] = variant
        ready = {}
        for model in data.draw(st.sets(st.sampled_from(["net", "other"]))):
            variant = data.draw(st.sampled_from([v for v in VARIANTS if v.manifest.model == model]))
            name = f"{variant.manifest.variant_id}" + ("" if data.draw(st.booleans()) else f"-{self.generation}-ready")
            ready[name] = variant
        desired = Desired(
            epoch=1,
            staged=tuple(v.wanted(n) for n, v in ready.items()),
            generation=self.generation,
            deployments=tuple(
                v.wanted(n).model_copy(update={"shadow": data.draw(st.sampled_from(SHADOWS))})
                for n, v in chosen.items()
            ),
        )
        self.sent.append(desired)

    @precondition(lambda self: self.sent and self.sent[-1].staged)
    @rule()
    def registry_activates_what_lies_ready(self) -> None:
        """The same ids go from one list to the other."""
        self.generation += 1
        before = self.sent[-1]
        chosen = {d.model: d for d in before.deployments} | {d.model: d for d in before.staged}
        self.sent.append(
            Desired(epoch=1, generation=self.generation, deployments=tuple(chosen[model] for model in sorted(chosen)))
        )

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), dies_after=st.one_of(st.none(), st.integers(0, 8)))
    def desired_arrives_late_twice_or_out_of_order(self, data: st.DataObject, dies_after: int | None) -> None:
        self._tell(ev.DesiredReceived(data.draw(st.sampled_from(self.sent))), dies_after=dies_after)

    @precondition(lambda self: self.manifests)
    @rule(good=st.booleans(), dies_after=st.one_of(st.none(), st.integers(0, 5)))
    def manifest_comes(self, good: bool, dies_after: int | None) -> None:  # noqa: FBT001
        sha256 = self.manifests.pop(0)
        if good:
            self._tell(ev.ManifestArrived(sha256, BY_MANIFEST[sha256].manifest), dies_after=dies_after)
        else:
            self._tell(ev.ManifestFailed(sha256, self.random.choice(TROUBLE)), dies_after=dies_after)

    @precondition(lambda self: self.transfers)
    @rule(good=st.booleans(), dies_after=st.one_of(st.none(), st.integers(0, 5)))
    def transfer_ends(self, good: bool, dies_after: int | None) -> None:  # noqa: FBT001
        sha256 = self._pick(sorted(self.transfers))
        self.transfers.discard(sha256)
        event = ev.TransferDone(sha256, 1) if good else ev.TransferFailed(sha256, self.random.choice(TROUBLE))
        self._tell(event, dies_after=dies_after)

    @precondition(lambda self: self.unpacking)
    @rule(good=st.booleans(), dies_after=st.one_of(st.none(), st.integers(0, 5)))
    def unpacking_ends(self, good: bool, dies_after: int | None) -> None:  # noqa: FBT001
        sha256 = self.unpacking.pop(0)
        if good:
            self.disk[sha256] = BY_MANIFEST[sha256].manifest
            self._tell(ev.Unpacked(sha256), dies_after=dies_after)
        else:
            self._tell(ev.UnpackFailed(sha256, Reason.DISK_FULL), dies_after=dies_after)

    @precondition(lambda self: "starting" in self.runners.values())
    @rule(good=st.booleans(), dies_after=st.one_of(st.none(), st.integers(0, 5)))
    def runner_proves_itself_or_dies(self, good: bool, dies_after: int | None) -> None:  # noqa: FBT001
        name = self._pick([n for n, phase in self.runners.items() if phase == "starting"])
        if good:
            self.runners[name] = "proven"
            self._tell(ev.RunnerProven(name, PROOF), dies_after=dies_after)
        else:
            del self.runners[name]
            self._tell(ev.RunnerExited(name, "crash"), dies_after=dies_after)

    @precondition(lambda self: self.runners)
    @rule(dies_after=st.one_of(st.none(), st.integers(0, 5)))
    def runner_ends(self, dies_after: int | None) -> None:
        name = self._pick(sorted(self.runners))
        del self.runners[name]
        self._tell(ev.RunnerExited(name, "crash"), dies_after=dies_after)

    @precondition(lambda self: "proven" in self.runners.values())
    @rule(dies_after=st.one_of(st.none(), st.integers(0, 5)))
    def shadow_has_compared(self, dies_after: int | None) -> None:
        name = self._pick([n for n, phase in self.runners.items() if phase == "proven"])
        self._tell(ev.ShadowCompared(name, AGREED), dies_after=dies_after)

    @rule(seconds=st.floats(0, 1000))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self._tell(ev.Tick())

    @rule()
    def supervisor_is_killed(self) -> None:
        self._start()

    @invariant()
    def what_was_accepted_never_goes_back(self) -> None:
        if hasattr(self, "core"):
            assert self.core.accepted.order >= self.accepted_ever
            self.accepted_ever = self.core.accepted.order

    @invariant()
    def memory_and_disk_agree(self) -> None:
        if hasattr(self, "core"):
            restored = DeviceCore(self.snapshot, installed=self.disk, rules=Rules(), chance=lambda: 0.5)
            assert restored.accepted == self.core.accepted
            ours = {s.deployment_id: s.state for s in self.core.statuses()}
            assert {s.deployment_id: s.state for s in restored.statuses()} == ours

    def teardown(self) -> None:
        """Whatever happened: when all goes well from now on, exactly what the registry wants serves."""
        if not hasattr(self, "core"):
            return
        if self.sent:
            self._tell(ev.DesiredReceived(self.sent[-1]))
        for _ in range(400):
            if not self._one_good_step():
                break
        wanted = {d.model: d.deployment_id for d in (self.sent[-1].deployments if self.sent else ())}
        serving = {name for name, phase in self.runners.items() if phase == "serving"}
        assert serving == set(wanted.values())
        assert self.pointers == wanted
        states = {s.deployment_id: s.state for s in self.core.statuses()}
        assert all(states[name] is DeploymentState.ACTIVE for name in wanted.values())
        ready = {d.deployment_id for d in (self.sent[-1].staged if self.sent else ())} - set(wanted.values())
        reasons = {s.deployment_id: (s.state, s.reason) for s in self.core.statuses()}
        assert all(reasons[name] == (DeploymentState.STAGED, Reason.HELD) for name in ready)
        assert ready.isdisjoint(self.runners)

    def _one_good_step(self) -> bool:
        if self.manifests:
            sha256 = self.manifests.pop(0)
            self._tell(ev.ManifestArrived(sha256, BY_MANIFEST[sha256].manifest))
        elif self.transfers:
            self._tell(ev.TransferDone(self.transfers.pop(), 1))
        elif self.unpacking:
            sha256 = self.unpacking.pop(0)
            self.disk[sha256] = BY_MANIFEST[sha256].manifest
            self._tell(ev.Unpacked(sha256))
        elif leaving := [n for n, phase in self.runners.items() if phase == "leaving"]:
            del self.runners[leaving[0]]
            self._tell(ev.RunnerExited(leaving[0]))
        elif starting := [n for n, phase in self.runners.items() if phase == "starting"]:
            self.runners[starting[0]] = "proven"
            self._tell(ev.RunnerProven(starting[0], PROOF))
        elif (due_s := self.core.next_due_s) is not None:
            self.now_s = max(self.now_s, due_s)
            self._tell(ev.Tick())
        else:
            return False
        return True


World.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWorld = World.TestCase
