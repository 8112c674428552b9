"""Carries out what the core has decided: files, transfers, runners. What becomes of it comes back as events."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edge_agent.deployments import events as ev
from edge_agent.pointer import ActivePointer
from edge_agent.protocol.states import Reason
from edge_agent.transfer.blocks import DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_agent.layout import Layout
    from edge_agent.storage.store import StateStore
    from edge_agent.storage.variants import VariantFolders
    from edge_agent.supervisor.complaints import Complaints
    from edge_agent.supervisor.line import Line
    from edge_agent.supervisor.runners import Runners
    from edge_agent.transfer.unpacking import Unpackings


class Actions:
    """The core's hands.

    Args:
        layout: where things lie.
        store: what survives a restart.
        folders: manifests, objects and variants.
        line: the registry.
        unpackings: the processes that unpack.
        runners: the processes that serve.
        complaints: where what went wrong is counted.
        deliver: takes the events.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        store: StateStore,
        folders: VariantFolders,
        line: Line,
        unpackings: Unpackings,
        runners: Runners,
        complaints: Complaints,
        deliver: Callable[[ev.Event], None],
    ) -> None:
        self._layout, self._store, self._folders, self._line = layout, store, folders, line
        self._unpackings, self._runners = unpackings, runners
        self._complaints, self._deliver = complaints, deliver

    def carry_out(self, action: ev.Action, moment: ev.Moment) -> None:
        """Do it, or begin it."""
        match action:
            case ev.Persist():
                self._store.persist(action)
            case ev.Report():
                self._line.connection.changed(moment)
            case ev.CollectGarbage():
                self._collect(action)
            case ev.FetchManifest():
                event = self._line.manifests.fetch(action.manifest_sha256, now_s=moment.now_s)
                if event is not None:
                    self._deliver(event)
            case ev.StartTransfer():
                self._start_transfer(action, moment.now_s)
            case ev.CancelTransfer():
                self._line.transfers.cancel(action.object_sha256)
            case ev.Unpack():
                self._unpack(action)
            case _:
                self._to_runner(action)

    def _to_runner(
        self, action: ev.StartRunner | ev.Shadow | ev.StopRunner | ev.Activate | ev.Deactivate | ev.SetWindow
    ) -> None:
        match action:
            case ev.StartRunner():
                self._runners.start(action)
            case ev.Shadow():
                self._runners.shadow(action.deployment_id)
            case ev.StopRunner():
                self._runners.stop(action.deployment_id, action.after)
            case ev.Activate():
                with self._spared("no in-process model can follow"):
                    self._folders.point(self._pointer(action))
                self._runners.activate(action)
            case ev.Deactivate():
                with self._spared("the next start removes the pointer"):
                    self._folders.unpoint(action.model)
                self._runners.deactivate(action.model)
            case ev.SetWindow():
                self._runners.set_window(action.window_s)

    def _pointer(self, action: ev.Activate) -> ActivePointer:
        manifest = action.manifest
        return ActivePointer(
            deployment_id=action.deployment_id,
            model=manifest.model,
            version=manifest.version,
            variant_id=manifest.variant_id,
            variant_dir=str(self._layout.variant_dir(action.manifest_sha256).relative_to(self._layout.root)),
            model_sha256=manifest.model_file.sha256,
            window_s=self._runners.window_s,
        )

    def _start_transfer(self, action: ev.StartTransfer, now_s: float) -> None:
        manifest, sha256 = action.manifest, action.object.sha256
        with self._spared("the next attempt writes the manifest"):
            if (text := self._line.manifests.text_of(action.manifest_sha256)) is not None:
                self._folders.keep_manifest(action.manifest_sha256, text, object_sha256=sha256)
        needed = manifest.payload_bytes + action.object.size_bytes
        used = self._folders.used_bytes(except_object=sha256)
        if used + needed > self._folders.budget_bytes:
            detail = f"{used} of {self._folders.budget_bytes} bytes are in use, and it needs {needed}"
            self._deliver(ev.TransferFailed(sha256, Reason.STORAGE_BUDGET, detail))
            return
        try:
            folder = self._layout.transfer_dir(sha256)
            self._line.transfers.start(folder, action.manifest_sha256, action.object, now_s=now_s)
        except DiskFullError as exc:
            self._folders.drop_transfer(sha256)
            self._deliver(ev.TransferFailed(sha256, Reason.DISK_FULL, str(exc)))
        except OSError as exc:
            self._deliver(ev.TransferFailed(sha256, Reason.INTERNAL, f"the disk failed: {exc.strerror}"))

    def _collect(self, action: ev.CollectGarbage) -> None:
        self._folders.collect(keep_manifests=action.keep_manifests, keep_objects=action.keep_objects)
        coming = {sha256 for sha256 in action.keep_manifests if not self._layout.variant_dir(sha256).is_dir()}
        self._line.manifests.forget_texts(except_of=coming)

    def _unpack(self, action: ev.Unpack) -> None:
        travelled = action.manifest.object if action.delta is None else action.delta.object
        folder = self._layout.transfer_dir(travelled.sha256)
        self._unpackings.start(
            action.manifest_sha256,
            object_path=folder / "data",
            manifest_path=folder / f"{action.manifest_sha256}.json",
            target=self._layout.variant_dir(action.manifest_sha256),
            delta=action.delta,
            base=None if action.base_sha256 is None else self._layout.variant_dir(action.base_sha256),
        )

    @contextlib.contextmanager
    def _spared(self, consequence: str) -> Iterator[None]:
        """A disk that is full or has failed must not take down what runs."""
        try:
            yield
        except OSError as exc:
            self._complaints.add("disk", f"the disk takes nothing ({exc.strerror}): {consequence}")
