"""From `queued` to `staged`: manifest, object, unpacking, and what happens when one of them fails. No IO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edge_agent.backoff import Backoff
from edge_agent.deployments.deltas import NOT_THE_DELTAS_FAULT, base_of, chosen, delta_of, object_of
from edge_agent.deployments.events import (
    CancelTransfer,
    CollectGarbage,
    FetchManifest,
    StartTransfer,
    TransferFailed,
    Unpack,
)
from edge_agent.deployments.ledger import DETAIL_LIMIT
from edge_agent.deployments.records import FETCHING, FINAL_REASONS, NETWORK_REASONS, UNFINISHED, DeploymentRecord
from edge_agent.protocol.delta import Fetched
from edge_agent.protocol.profile import RuntimeName
from edge_agent.protocol.states import DeploymentState, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.deployments.ledger import Ledger
    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.protocol.messages import SelfTestReport

RETRY = Backoff(first_s=5.0, cap_s=600.0)
RESTART = Backoff(first_s=0.5, cap_s=30.0)
# what a runner takes before weights: interpreter and libraries; ExecuTorch's Python runtime needs torch
RUNNER_BASE_BYTES = {
    RuntimeName.LITERT: 48 << 20,
    RuntimeName.TFLITE: 48 << 20,
    RuntimeName.ONNX: 64 << 20,
    RuntimeName.EXECUTORCH: 256 << 20,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers that decide; settings and the device's profile give them."""

    storage_budget_bytes: int = 1 << 40
    runtimes: frozenset[RuntimeName] | None = None  # installed here; None: not known
    retry: Backoff = RETRY
    restart: Backoff = RESTART
    try_limit: int = 10  # so many tries of the network, over half an hour, and a deployment is given up
    crash_limit: int = 4  # so many crashes within the window are a loop
    crash_window_s: float = 600.0
    self_test_limit: int = 3  # self-tests that may end in a crash before the variant is refused for good
    runner_base_bytes: Mapping[RuntimeName, int] = field(default_factory=lambda: RUNNER_BASE_BYTES)
    memory_reserve_bytes: int = 16 << 20  # what the rest of the machine keeps


class Acquisition:
    """Brings wanted variants onto the disk."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        installed: dict[str, VariantManifest],
        rules: Rules,
        chance: Callable[[], float],
    ) -> None:
        self.ledger = ledger
        self.installed = installed
        self.manifests: dict[str, VariantManifest] = {}
        self.retry_at: dict[str, float] = {}
        self._rules = rules
        self._chance = chance
        self._transfers: set[str] = set()
        self._unpacking: set[str] = set()

    def begin(self, record: DeploymentRecord) -> None:
        """Take up a deployment that is queued, or that a restart interrupted on its way to the disk."""
        if record.state is DeploymentState.VERIFYING:  # bytes on disk are believed only after they are hashed again
            record = self.ledger.move(record, DeploymentState.DOWNLOADING)
        sha256 = record.wanted.manifest_sha256
        known = self.installed.get(sha256) or self.manifests.get(sha256)
        if known is None:
            self.ledger.act(FetchManifest(sha256, record.wanted.manifest_bytes))
        else:
            self._proceed(record, known)

    def manifest_arrived(self, sha256: str, manifest: VariantManifest) -> None:
        """A manifest is here."""
        waiting = [record for record in self.ledger.by_manifest(sha256) if record.state in FETCHING]
        if waiting:
            self.manifests[sha256] = manifest
        for record in waiting:
            self._proceed(record, manifest)

    def manifest_failed(self, sha256: str, reason: Reason, detail: str, *, again: bool) -> None:
        """A manifest can't be had."""
        for record in self.ledger.by_manifest(sha256):
            if record.state in FETCHING:
                self.fail(record, reason, detail, again=again)

    def transfer_done(self, object_sha256: str, bytes_received: int) -> None:
        """Every block is on disk: unpack and verify."""
        self._transfers.discard(object_sha256)
        for record, manifest in self._users(object_sha256, DeploymentState.DOWNLOADING):
            received = record.bytes_received + bytes_received
            record = self.ledger.move(record, DeploymentState.VERIFYING, bytes_received=received)  # noqa: PLW2901
            sha256, delta = record.wanted.manifest_sha256, delta_of(record)
            base = base_of(delta, self.installed) if delta is not None else None
            if delta is not None and base is None:
                self._take_whole(record, "the variant that the delta begins from is gone")
            elif sha256 not in self._unpacking:
                self._unpacking.add(sha256)
                self.ledger.act(Unpack(sha256, manifest, delta, base))

    def transfer_failed(self, event: TransferFailed) -> None:
        """The object can't be had now."""
        self._transfers.discard(event.object_sha256)
        for record, _ in self._users(event.object_sha256, DeploymentState.DOWNLOADING):
            received = record.bytes_received + event.bytes_received
            if delta_of(record) is not None and event.reason not in NOT_THE_DELTAS_FAULT:
                self._take_whole(record, event.detail or event.reason, bytes_received=received)
            else:
                self.fail(record, event.reason, event.detail, again=event.again, bytes_received=received)

    def unpacked(self, sha256: str) -> None:
        """A variant is installed."""
        self._unpacking.discard(sha256)
        manifest = self.manifests.pop(sha256, None) or self.installed.get(sha256)
        if manifest is not None:
            self.installed[sha256] = manifest
        for record in self.ledger.by_manifest(sha256):
            if record.state is DeploymentState.VERIFYING and manifest is not None:
                self.ledger.move(record, DeploymentState.STAGED, file_sha256=manifest.model_file.sha256)

    def unpack_failed(self, sha256: str, reason: Reason, detail: str) -> None:
        """An object did not become a variant."""
        self._unpacking.discard(sha256)
        for record in self.ledger.by_manifest(sha256):
            if record.state is not DeploymentState.VERIFYING:
                continue
            if delta_of(record) is not None and reason not in NOT_THE_DELTAS_FAULT:
                self._take_whole(record, detail or reason)
            else:
                self.fail(record, reason, detail)

    def fail(
        self,
        record: DeploymentRecord,
        reason: Reason,
        detail: str,
        *,
        final: bool = False,
        again: bool = True,
        self_test: SelfTestReport | None = None,
        bytes_received: int | None = None,
    ) -> None:
        """Refuse for good, try again later, or wait for a later desired state: the reason decides.

        Args:
            record: the deployment.
            reason: why it failed.
            detail: the same for people.
            final: it is this variant that can't run here.
            again: False: whoever was asked has refused, and would again.
            self_test: what a self-test has measured.
            bytes_received: the new total.
        """
        changes: dict[str, object] = {"self_test": self_test or record.self_test}
        if bytes_received is not None:
            changes["bytes_received"] = bytes_received
        if final or reason in FINAL_REASONS:
            self.ledger.move(record, DeploymentState.REJECTED, reason=reason, detail=detail, **changes)
            return
        if again and reason in NETWORK_REASONS and record.attempt + 1 >= self._rules.try_limit:
            again, detail = False, f"given up after {record.attempt + 1} tries: {detail}"
        self.ledger.move(record, DeploymentState.FAILED, reason=reason, detail=detail, **changes)
        if again:
            self.schedule_retry(record)

    def take_up_again(self) -> None:
        """A later desired state still wants what was given up: begin to count anew."""
        for record in list(self.ledger.records.values()):
            if record.state is DeploymentState.FAILED and record.deployment_id not in self.retry_at:
                fresh = record.model_copy(update={"attempt": 0})
                self.ledger.put(fresh)
                self.schedule_retry(fresh)

    def schedule_retry(self, record: DeploymentRecord) -> None:
        """Begin a failed deployment anew after a while."""
        wait_s = self._rules.retry.delay_s(record.attempt + 1, self._chance())
        self.retry_at[record.deployment_id] = self.ledger.moment.now_s + wait_s

    def retry_due(self) -> None:
        """Begin anew what has waited long enough."""
        now_s = self.ledger.moment.now_s
        for deployment_id in [name for name, at_s in self.retry_at.items() if at_s <= now_s]:
            del self.retry_at[deployment_id]
            record = self.ledger.records.get(deployment_id)
            if record is not None and record.state is DeploymentState.FAILED:
                self.begin(self.ledger.move(record, DeploymentState.QUEUED, attempt=record.attempt + 1))

    def drop(self, record: DeploymentRecord) -> None:
        """Nobody wants this deployment any more; the blocks that it has fetched stay for the next one."""
        self.retry_at.pop(record.deployment_id, None)
        manifest = self.manifests.get(record.wanted.manifest_sha256)
        if manifest is None or record.state is not DeploymentState.DOWNLOADING:
            return
        sha256 = object_of(record, manifest).sha256
        others = [r for r, _ in self._users(sha256, DeploymentState.DOWNLOADING) if r is not record]
        others += [
            r for r in self.ledger.by_manifest(record.wanted.manifest_sha256) if r.state is DeploymentState.QUEUED
        ]
        if sha256 in self._transfers and not others:
            self._transfers.discard(sha256)
            self.ledger.act(CancelTransfer(sha256))

    def discard(self, manifest_sha256: str) -> None:
        """The files of a variant are no longer those that were installed: whoever wants it fetches it again."""
        if self.installed.pop(manifest_sha256, None) is not None:
            self.collect(rotten=manifest_sha256)

    def collect(self, *, rotten: str | None = None) -> None:
        """Free what no deployment needs: the active variant, the one before it and what is under way stay."""
        if self.ledger.accepted.order == (0, 0):  # that nobody is known to need a variant says nothing before a desired
            self.ledger.act(CollectGarbage(frozenset(self.installed) - {rotten}, None))
            return
        keep_ids = {name for slot in self.ledger.slots.values() for name in (slot.active, slot.previous)}
        open_states = UNFINISHED | {DeploymentState.FAILED}
        needed = [r for r in self.ledger.records.values() if r.deployment_id in keep_ids or r.state in open_states]
        keep_manifests = frozenset(r.wanted.manifest_sha256 for r in needed) - {rotten}
        coming = [r.wanted.manifest_sha256 for r in needed if r.state in open_states]
        if any(sha256 not in self.manifests and sha256 not in self.installed for sha256 in coming):
            keep_objects = None  # a manifest that has not come yet may name an object that is half here
        else:
            keep_objects = frozenset(
                object_of(record, self.manifests[record.wanted.manifest_sha256]).sha256
                for record in needed
                if record.state in open_states and record.wanted.manifest_sha256 in self.manifests
            )
        for sha256 in [s for s in self.installed if s not in keep_manifests]:
            del self.installed[sha256]
        for sha256 in [s for s in self.manifests if s not in keep_manifests]:
            del self.manifests[sha256]
        self.ledger.act(CollectGarbage(keep_manifests, keep_objects))

    def _users(self, object_sha256: str, state: DeploymentState) -> list[tuple[DeploymentRecord, VariantManifest]]:
        return [
            (record, manifest)
            for record in list(self.ledger.records.values())
            if record.state is state
            and (manifest := self.manifests.get(record.wanted.manifest_sha256)) is not None
            and object_of(record, manifest).sha256 == object_sha256
        ]

    def _proceed(self, record: DeploymentRecord, manifest: VariantManifest) -> None:
        wanted = record.wanted
        if (manifest.model, manifest.version, manifest.variant_id) != (wanted.model, wanted.version, wanted.variant_id):
            named = f"{manifest.model}@{manifest.version} {manifest.variant_id}"
            self.fail(record, Reason.MANIFEST_INVALID, f"the manifest is of {named}, not of what is wanted")
            return
        if self._rules.runtimes is not None and manifest.runtime not in self._rules.runtimes:
            self.fail(record, Reason.RUNTIME_MISSING, f"runtime {manifest.runtime} is not installed on this device")
            return
        if wanted.manifest_sha256 in self.installed:
            self._found_installed(record, manifest)
            return
        delta = chosen(record, manifest, self._kept(), memory_bytes=self._memory_bytes())
        travels = manifest.object if delta is None else delta.object
        needed = manifest.payload_bytes + travels.size_bytes
        if needed > self._rules.storage_budget_bytes:
            budget = self._rules.storage_budget_bytes
            detail = f"it needs {needed} bytes while it is unpacked, the storage budget is {budget}"
            self.fail(record, Reason.STORAGE_BUDGET, detail, final=True)
            return
        self.manifests[wanted.manifest_sha256] = manifest
        changes: dict[str, Any] = {"bytes_total": travels.size_bytes, "delta_sha256": None}
        if delta is not None:
            changes |= {"delta_sha256": delta.object.sha256, "fetched": Fetched.DELTA}
        elif record.fetched is Fetched.DELTA:
            changes["fetched"] = Fetched.WHOLE_AFTER_DELTA
        self.ledger.move(record, DeploymentState.DOWNLOADING, **changes)
        if travels.sha256 not in self._transfers:
            self.collect()
            self._transfers.add(travels.sha256)
            self.ledger.act(StartTransfer(wanted.manifest_sha256, manifest, travels))

    def _take_whole(self, record: DeploymentRecord, why: str, *, bytes_received: int | None = None) -> None:
        """A delta did not do: fetch the whole object, and never a delta again for this deployment."""
        sha256 = record.wanted.manifest_sha256
        told = f"the whole object is fetched, because the delta did not do: {why}"[:DETAIL_LIMIT]
        changes: dict[str, Any] = {
            "fetched": Fetched.WHOLE_AFTER_DELTA,
            "delta_sha256": None,
            "delta_detail": told,
            "bytes_received": record.bytes_received if bytes_received is None else bytes_received,
        }
        record = self.ledger.move(record, DeploymentState.DOWNLOADING, **changes)
        if sha256 in self.manifests:
            self._proceed(record, self.manifests[sha256])
        else:  # never without it: it is dropped only when the deployment is
            self.ledger.act(FetchManifest(sha256, record.wanted.manifest_bytes))

    def _kept(self) -> dict[str, VariantManifest]:
        """The installed variants that garbage collection leaves: active ones, and what would be fallen back to."""
        names = {name for slot in self.ledger.slots.values() for name in (slot.active, slot.previous)}
        kept = {self.ledger.records[name].wanted.manifest_sha256 for name in names if name in self.ledger.records}
        return {sha256: manifest for sha256, manifest in self.installed.items() if sha256 in kept}

    def _memory_bytes(self) -> int | None:
        available = self.ledger.moment.memory_available_bytes
        return None if available is None else max(0, available - self._rules.memory_reserve_bytes)

    def _found_installed(self, record: DeploymentRecord, manifest: VariantManifest) -> None:
        file_sha256 = manifest.model_file.sha256
        if record.state is DeploymentState.QUEUED:
            self.ledger.move(record, DeploymentState.ALREADY_INSTALLED, file_sha256=file_sha256)
        else:  # a crash came between the rename and the record
            verifying = self.ledger.move(record, DeploymentState.VERIFYING)
            self.ledger.move(verifying, DeploymentState.STAGED, file_sha256=file_sha256)
