"""Whether a deployment is fetched as a delta, or whole. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.protocol.delta import Fetched
from edge_agent.protocol.states import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.deployments.records import DeploymentRecord
    from edge_agent.protocol.delta import Delta
    from edge_agent.protocol.manifest import ObjectDescriptor, VariantManifest

# These would stop the whole object just as well.
NOT_THE_DELTAS_FAULT = frozenset({Reason.DISK_FULL, Reason.STORAGE_BUDGET})


def delta_of(record: DeploymentRecord) -> Delta | None:
    """The delta that is fetched for a deployment; None: the whole object is."""
    return next((one for one in record.wanted.deltas if one.object.sha256 == record.delta_sha256), None)


def object_of(record: DeploymentRecord, manifest: VariantManifest) -> ObjectDescriptor:
    """What is fetched for a deployment."""
    delta = delta_of(record)
    return manifest.object if delta is None else delta.object


def base_of(delta: Delta, kept: Mapping[str, VariantManifest]) -> str | None:
    """The manifest's sha256 of a kept variant that a delta can be applied to."""
    for sha256, manifest in kept.items():
        if manifest.payload_sha256 == delta.base_payload_sha256 and manifest.payload_bytes == delta.base_bytes:
            return sha256
    return None


def chosen(
    record: DeploymentRecord,
    manifest: VariantManifest,
    kept: Mapping[str, VariantManifest],
    *,
    memory_bytes: int | None,
) -> Delta | None:
    """The smallest delta that can be applied here; None: the whole object is as small, or the only way.

    Args:
        record: the deployment.
        manifest: of its variant.
        kept: the installed variants that stay: active ones, and those that would be fallen back to.
        memory_bytes: what a process may take now; None: not known.
    """
    if record.fetched is Fetched.WHOLE_AFTER_DELTA:
        return None
    fit = [
        delta
        for delta in record.wanted.deltas
        if delta.object.size_bytes < manifest.object.size_bytes
        and base_of(delta, kept) is not None
        and (memory_bytes is None or delta.memory_bytes <= memory_bytes)
    ]
    return min(fit, key=lambda delta: delta.object.size_bytes, default=None)
