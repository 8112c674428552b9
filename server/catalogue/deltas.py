"""The deltas that were made to variants, as operators see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from edge_agent.protocol.delta import Delta
from server.database.tables import deltas, variants
from server.schemas.catalogue import VariantDelta

if TYPE_CHECKING:
    from collections.abc import Iterable


def deltas_of(connection: sa.Connection, manifests: Iterable[str | None]) -> dict[str, list[VariantDelta]]:
    """By manifest: from which variants there are deltas to it, and where one was not worthwhile."""
    wanted = sorted({sha256 for sha256 in manifests if sha256})
    query = (
        sa.select(deltas, variants.c.version, variants.c.variant_id)
        .select_from(deltas.outerjoin(variants, variants.c.manifest_sha256 == deltas.c.base_manifest_sha256))
        .where(deltas.c.manifest_sha256.in_(wanted))
        .order_by(deltas.c.created_at, deltas.c.base_manifest_sha256)
    )
    found: dict[str, dict[str, VariantDelta]] = {}
    for row in connection.execute(query):
        delta = None if row.object_sha256 is None else Delta.model_validate(row.document)
        found.setdefault(row.manifest_sha256, {})[row.base_manifest_sha256] = VariantDelta(
            base_version=row.version,
            base_variant_id=row.variant_id,
            base_manifest_sha256=row.base_manifest_sha256,
            wire_bytes=delta.object.size_bytes if delta else None,
            memory_bytes=delta.memory_bytes if delta else None,
        )
    return {sha256: list(of_base.values()) for sha256, of_base in found.items()}
