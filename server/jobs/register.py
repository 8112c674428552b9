"""What a job made, into the catalogue: one transaction each, together with the end of the job."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from compressors.contract import BuildResult, BuiltVariant, InspectResult, ReportResult
from compressors.search_contract import SearchResult
from server.database.connect import Database
from server.database.tables import choices, model_versions, variant_reports, variants
from server.jobs.claims import Claim, finish
from server.jobs.errors import JobError
from server.jobs.rows import insert_or_replace
from server.schemas.catalogue import ModelVersion, Refusal, Splits, Task, Variant
from server.schemas.report import Report
from server.schemas.work import InspectWork, ReportWork
from server.storage.interface import StoredObject


@dataclass(frozen=True, slots=True)
class StoredSizes:
    """Sizes of the objects that a build stored, by sha256, as the store counted them."""

    size_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search tried before its build."""

    result: SearchResult
    for_a_lane: bool = False
    """A lane of a rollout asked for it: where nothing fits, what its profile gets stays as it is."""


def model_version_of(claim: Claim, work: InspectWork, found: InspectResult, *, now: float) -> ModelVersion:
    """The record of a model version."""
    return ModelVersion(
        model=claim.model,
        version=claim.version,
        task=Task(work.form.task),
        metric=work.form.metric,
        signature=found.signature,
        preprocessing=work.form.preprocessing,
        labels=found.labels,
        splits=Splits.model_validate(found.splits.model_dump()),
        parameters=found.parameters,
        source_sha256=work.source.sha256,
        source_bytes=work.source.size_bytes,
        eval_sha256=work.data.sha256,
        train_sha256=work.train.sha256 if work.train else None,
        created_at=now,
    )


def register_version(database: Database, claim: Claim, version: ModelVersion, *, now: float) -> None:
    """Add the model version and end its inspection; a version that is there already stays as it is.

    Raises:
        JobError: the version exists with other bytes.
        LeaseLostError: the job is another worker's; nothing was changed.
    """
    document = version.model_dump(mode="json")
    columns = ("model", "version", "task", "metric", "source_sha256", "source_bytes", "eval_sha256", "train_sha256")
    row = {name: document[name] for name in columns} | {"document": document, "created_at": now}
    with database.write() as connection:
        connection.execute(_insert(database, model_versions).on_conflict_do_nothing(), row)
        query = sa.select(model_versions).where(
            model_versions.c.model == claim.model, model_versions.c.version == claim.version
        )
        stored = connection.execute(query).mappings().one()
        if any(stored[name] != row[name] for name in columns):
            raise JobError(
                f"{claim.model} {claim.version} exists with other content; versions never change: push another one.",
                code="conflict",
            )
        finish(connection, claim, result={"model": claim.model, "version": claim.version}, now=now)


def register_build(
    database: Database,
    claim: Claim,
    result: BuildResult,
    sizes: StoredSizes,
    *,
    now: float,
    searched: Searched | None = None,
) -> None:
    """Write the candidates and the choices, and end the job. Candidates of an earlier build stay: devices run them.

    A search for a lane may be held to less than its profile allows: where it finds nothing it takes nothing away.

    Args:
        database: the catalogue.
        claim: of a build, or of a search that ended in one.
        result: of the build.
        sizes: of the objects that it stored.
        now: seconds since the epoch.
        searched: what was tried before; it is kept with the job.

    Raises:
        LeaseLostError: the job is another worker's; nothing was changed.
    """
    rows = [_variant_row(claim, built, sizes, now) for built in result.variants]
    changes_nothing = searched is not None and searched.for_a_lane and all(c.refusal for c in result.choices)
    picked = [
        {
            "model": claim.model,
            "version": claim.version,
            "profile": choice.profile,
            "variant_id": choice.variant_id,
            "reason": choice.reason,
            "refusal": sa.null()
            if choice.refusal is None
            else Refusal.model_validate(choice.refusal.model_dump()).model_dump(mode="json"),
            "created_at": now,
        }
        for choice in result.choices
    ]
    ours = (variants.c.model == claim.model, variants.c.version == claim.version)
    with database.write() as connection:
        if not changes_nothing:
            judged = [choice.profile for choice in result.choices]
            _withdraw(connection, sa.and_(*ours, variants.c.profile.in_(judged)))
            for row in rows:
                insert_or_replace(connection, variants, row)
            for row in picked:
                insert_or_replace(connection, choices, row)
        summary: dict[str, Any] = {
            "variants": len(rows),
            "choices": {choice.profile: choice.variant_id for choice in result.choices},
            "refusals": {choice.profile: choice.refusal.sentence for choice in result.choices if choice.refusal},
        }
        if searched is not None:
            summary["search"] = searched.result.model_dump(mode="json", exclude={"build"})
        finish(connection, claim, result=summary, now=now)


def report_of(claim: Claim, work: ReportWork, made: ReportResult, stored: StoredObject, *, now: float) -> Report:
    """The record of a report whose files are stored."""
    return Report(
        model=claim.model,
        version=claim.version,
        profile=work.profile,
        variant_id=work.variant_id,
        label=made.label[:64],
        sentence=made.sentence[:2000],
        loses_points=made.loses_points,
        files=made.files,
        shifted_sha256=work.shifted.sha256 if work.shifted else None,
        archive_sha256=stored.sha256,
        archive_bytes=stored.size_bytes,
        created_at=now,
    )


def register_report(database: Database, claim: Claim, report: Report) -> None:
    """Write a report in place of an earlier one of the same variant, and end the job.

    Raises:
        LeaseLostError: the job is another worker's; nothing was changed.
    """
    document = report.model_dump(mode="json")
    columns = ("model", "version", "profile", "variant_id", "archive_sha256", "created_at")
    row = {name: document[name] for name in columns} | {"shifted_sha256": report.shifted_sha256 or ""}
    with database.write() as connection:
        insert_or_replace(connection, variant_reports, row | {"document": document})
        finish(connection, claim, result={"label": report.label}, now=report.created_at)


def _withdraw(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> None:
    """Only the last build of a profile chooses and ranks: candidates of earlier ones are not offered any more."""
    keys = (variants.c.profile, variants.c.variant_id)
    offered = sa.or_(variants.c.chosen, variants.c.document["rank"].as_integer().is_not(None))
    for profile, variant_id, document in connection.execute(
        sa.select(*keys, variants.c.document).where(condition, offered)
    ).all():
        connection.execute(
            sa.update(variants)
            .where(condition, variants.c.profile == profile, variants.c.variant_id == variant_id)
            .values(chosen=False, document={**document, "chosen": False, "rank": None})
        )


def _variant_row(claim: Claim, built: BuiltVariant, sizes: StoredSizes, now: float) -> dict[str, Any]:
    document = Variant.model_validate(
        {**built.model_dump(mode="json"), "model": claim.model, "version": claim.version, "created_at": now}
    ).model_dump(mode="json")
    columns = ("model", "version", "profile", "variant_id", "recipe", "runtime", "delegate", "verdict", "chosen")
    shared = ("manifest_sha256", "object_sha256")
    return {name: document[name] for name in (*columns, *shared)} | {
        "manifest_bytes": sizes.size_bytes.get(built.manifest_sha256 or ""),
        "object_bytes": sizes.size_bytes.get(built.object_sha256 or ""),
        "document": document,
        "created_at": now,
    }


def _insert(database: Database, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if database.is_sqlite else postgresql.insert(table)
