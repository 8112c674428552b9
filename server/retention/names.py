"""Which objects are named: by versions, variants, reports, work under way, or what devices may fetch or go back to.

Everything that puts an object into the store and names it in a table must be read here: what is not, is deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from pydantic import ValidationError

from edge_agent.protocol.manifest import VariantManifest
from edge_agent.protocol.messages import Desired
from server.database.job_states import is_over
from server.database.tables import (
    deltas,
    deployments,
    desired,
    jobs,
    model_versions,
    retired_versions,
    variant_reports,
    variants,
)
from server.errors import DigestMismatchError, ObjectNotFoundError
from server.schemas.work import InspectWork, JobKind, ReportWork, StoredFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.storage import ObjectStore


def named_objects(connection: sa.Connection, store: ObjectStore, *, retired_before: float) -> frozenset[str]:
    """The sha256 of every object that is still needed.

    Args:
        connection: to the catalogue.
        store: to read manifests from.
        retired_before: versions that were retired before it name nothing; what devices may go back to stays.

    Raises:
        StorageUnavailableError: a manifest could not be read, so that it is not known what it names.
    """
    versions = connection.execute(
        sa.select(model_versions.c.source_sha256, model_versions.c.eval_sha256, model_versions.c.train_sha256).where(
            _is_kept(model_versions, retired_before)
        )
    )
    objects_of = {
        row.manifest_sha256: row.object_sha256
        for row in connection.execute(
            sa.select(variants.c.manifest_sha256, variants.c.object_sha256).where(_is_kept(variants, retired_before))
        )
        if row.manifest_sha256
    }
    built = {sha256 for pair in objects_of.items() for sha256 in pair if sha256}
    delivered = _delivered(connection)
    # built again under the same id, a variant has another manifest now: devices may still have the one before
    older = delivered - objects_of.keys()
    files = {sha256 for row in versions for sha256 in row if sha256}
    kept_reports = sa.select(variant_reports.c.archive_sha256).where(_is_kept(variant_reports, retired_before))
    reports = set(connection.execute(kept_reports).scalars())
    reports |= _deltas(connection, delivered)
    return frozenset(files | reports | _under_way(connection) | built | delivered | set(_objects_of(older, store)))


def _is_kept(table: sa.Table, retired_before: float) -> sa.ColumnElement[bool]:
    """Whether the version that a row is of is in use, or was retired only lately."""
    gone = retired_versions.c
    same = (gone.model == table.c.model, gone.version == table.c.version)
    return ~sa.exists().where(*same, gone.retired_at < retired_before)


def _under_way(connection: sa.Connection) -> set[str]:
    """The files of pushes that are not looked into yet, and the second sets of reports that are not made yet.

    Nobody has them, somebody has, or had and gave them back.
    """
    query = (
        sa.select(jobs.c.kind, jobs.c.request)
        .where(jobs.c.kind.in_((JobKind.INSPECT.value, JobKind.REPORT.value)))
        .where(~is_over(jobs.c.job_id))
    )
    files: list[StoredFile | None] = []
    for row in connection.execute(query):
        if row.kind == JobKind.REPORT:
            files.append(ReportWork.model_validate(row.request).shifted)
        else:
            work = InspectWork.model_validate(row.request)
            files += [work.source, work.data, work.train]
    return {file.sha256 for file in files if file is not None}


def _delivered(connection: sa.Connection) -> set[str]:
    """Manifests that some device is wanted to run or to hold ready, or would be after a rollback."""
    wanted = {
        entry.manifest_sha256
        for document in connection.execute(sa.select(desired.c.document)).scalars()
        for entry in Desired.model_validate(document).entries
    }
    before = deployments.c.previous["manifest_sha256"].as_string()
    return wanted | {sha256 for sha256 in connection.execute(sa.select(before).distinct()).scalars() if sha256}


def _deltas(connection: sa.Connection, delivered: set[str]) -> set[str]:
    """Those from what devices run, or may go back to: nobody can apply the others."""
    query = sa.select(deltas.c.base_manifest_sha256, deltas.c.object_sha256).where(deltas.c.object_sha256.is_not(None))
    made = {row.object_sha256 for row in connection.execute(query) if row.base_manifest_sha256 in delivered}
    documents = connection.execute(sa.select(desired.c.document)).scalars()
    entries = (entry for document in documents for entry in Desired.model_validate(document).entries)
    return made | {delta.object.sha256 for entry in entries for delta in entry.deltas}


def _objects_of(manifests: Iterable[str], store: ObjectStore) -> Iterable[str]:
    for sha256 in manifests:
        try:
            yield VariantManifest.model_validate_json(store.get_bytes(sha256)).object.sha256
        except (ObjectNotFoundError, DigestMismatchError, ValidationError):
            continue  # what can't be read can't be delivered either
