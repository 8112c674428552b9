"""What a device that remembers nothing can still know from its folders: which variant answers for each model. No IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.deployments.records import DeploymentRecord, ModelSlot, Snapshot
from edge_agent.protocol.messages import DesiredDeployment
from edge_agent.protocol.states import DeploymentState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edge_agent.pointer import ActivePointer
    from edge_agent.protocol.manifest import VariantManifest


def recovered(
    snapshot: Snapshot,
    *,
    pointers: Iterable[ActivePointer],
    installed: Mapping[str, VariantManifest],
    manifest_bytes: Mapping[str, int],
) -> Snapshot:
    """The snapshot itself; one that holds nothing is filled with the deployments that the pointers name as active.

    So a device whose memory was damaged serves what it served, without any network. The limits of such a deployment are
    not known: it has met them here before. No desired state counts as accepted: the next one decides.

    Args:
        snapshot: what the state store holds.
        pointers: one of each model.
        installed: manifests of the variants on disk, by the sha256 of the manifest.
        manifest_bytes: their sizes.
    """
    if snapshot != Snapshot(deferrals=snapshot.deferrals):
        return snapshot
    records, slots = [], []
    for pointer in pointers:
        sha256 = pointer.manifest_sha256
        manifest = installed.get(sha256)
        if manifest is None or manifest.model != pointer.model:
            continue
        wanted = DesiredDeployment(
            deployment_id=pointer.deployment_id,
            model=manifest.model,
            version=manifest.version,
            variant_id=manifest.variant_id,
            manifest_sha256=sha256,
            manifest_bytes=manifest_bytes[sha256],
        )
        records.append(
            DeploymentRecord(wanted=wanted, state=DeploymentState.ACTIVE, file_sha256=manifest.model_file.sha256)
        )
        slots.append(ModelSlot(model=manifest.model, active=pointer.deployment_id))
    return Snapshot(records=tuple(records), slots=tuple(slots), deferrals=snapshot.deferrals)
