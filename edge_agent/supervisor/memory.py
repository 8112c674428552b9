"""What a device remembers when it starts: its state store, or what its folders prove where that holds nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge_agent.deployments.events import Persist
from edge_agent.deployments.recovery import recovered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.deployments.records import Snapshot
    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.storage.store import StateStore
    from edge_agent.storage.variants import VariantFolders

log = logging.getLogger(__name__)


def remember(store: StateStore, folders: VariantFolders, *, installed: Mapping[str, VariantManifest]) -> Snapshot:
    """The state to go on from. What the folders prove is written down: the next start finds it in the store."""
    snapshot = store.load()
    whole = recovered(
        snapshot,
        pointers=folders.pointers(),
        installed=installed,
        manifest_bytes={sha256: folders.manifest_bytes(sha256) for sha256 in installed},
    )
    if whole != snapshot:
        models = ", ".join(slot.model for slot in whole.slots)
        log.warning("the state is lost; the folders say that these models were active: %s", models)
        store.persist(Persist(records=whole.records, slots=whole.slots))
    return whole
