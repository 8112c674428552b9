"""Reports on variants: asked for here, made by the workers, kept with the variant and served from there."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edge_agent.protocol.profile import Delegate
from server.catalogue.jobs import WantedJob, enqueue, get_job
from server.catalogue.profiles import require_profiles
from server.catalogue.push import put, refuse_no_data
from server.catalogue.versions import require_usable
from server.database.tables import choices, jobs, variant_reports, variants
from server.errors import ConflictError, NotFoundError
from server.schemas.catalogue import Job, JobState, Variant
from server.schemas.report import Report
from server.schemas.work import JobKind, ReportWork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.catalogue.push import UploadedFile
    from server.database.connect import Database
    from server.schemas.report import ReportForm
    from server.storage import ObjectStore


def request_report(
    database: Database,
    store: ObjectStore,
    name: tuple[str, str],
    form: ReportForm,
    shifted: UploadedFile | None,
    *,
    now: float,
) -> Job:
    """Ask for a report on a variant of MODEL, VERSION; the same wish finds the same job until it is built anew.

    Args:
        database: the catalogue.
        store: takes the second set.
        name: model and version.
        form: which variant.
        shifted: the user's second set.
        now: seconds since the epoch.

    Raises:
        NotFoundError: no such version, profile or variant.
        ConflictError: there is nothing to report on: nothing was built or chosen, or it did not run here.
        InvalidError: the second set is no `.npz`.
        StorageUnavailableError: S3 is down; nothing is asked for.
    """
    if shifted is not None:
        refuse_no_data(shifted, "shifted")
    with database.read() as connection:
        _wanted(connection, name, form, shifted)
    if shifted is not None:
        put(store, shifted)
    with database.write() as connection:
        return enqueue(connection, _wanted(connection, name, form, shifted), now=now, again=form.again).job


def get_report(database: Database, job_id: str) -> Report:
    """The latest report of the variant that a job was asked to report on.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it is not done, has failed, or was cancelled.
    """
    job = get_job(database, job_id)
    if job.kind != JobKind.REPORT:
        raise NotFoundError(f"Job {job.job_id} is no report: `edge-registry job list` shows what is what.")
    if job.state is not JobState.DONE:
        raise ConflictError(f"Report {job.job_id} is {job.state}: `edge-registry job show {job.job_id}` says more.")
    with database.read() as connection:
        work = ReportWork.model_validate(
            connection.execute(sa.select(jobs.c.request).where(jobs.c.job_id == job_id)).scalar_one()
        )
        query = sa.select(variant_reports.c.document).where(
            variant_reports.c.model == job.model,
            variant_reports.c.version == job.version,
            variant_reports.c.profile == work.profile,
            variant_reports.c.variant_id == work.variant_id,
            variant_reports.c.shifted_sha256 == (work.shifted.sha256 if work.shifted else ""),
        )
        return Report.model_validate(connection.execute(query).scalar_one())


def _wanted(
    connection: sa.Connection, name: tuple[str, str], form: ReportForm, shifted: UploadedFile | None
) -> WantedJob:
    require_usable(connection, *name)
    require_profiles(connection, (form.profile,))
    rows = _candidates(connection, name, form.profile)
    work = ReportWork(
        profile=form.profile,
        variant_id=_reportable(connection, name, form, rows),
        shifted=shifted.described() if shifted else None,
        measure_again=form.again,
    )
    document = work.model_dump(mode="json")
    identity = {**document, "measure_again": False, "candidates": _digest(rows)}
    return WantedJob(JobKind.REPORT, *name, identity=identity, request=document)


def _candidates(connection: sa.Connection, name: tuple[str, str], profile: str) -> Sequence[sa.Row[Any]]:
    query = sa.select(variants).where(
        variants.c.model == name[0], variants.c.version == name[1], variants.c.profile == profile
    )
    return connection.execute(query.order_by(variants.c.variant_id)).all()


def _digest(rows: Sequence[sa.Row[Any]]) -> str:
    """Another one once something was built anew for the profile: a report shows all that it could have."""
    known = [[row.variant_id, row.manifest_sha256, row.chosen, row.created_at] for row in rows]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _reportable(connection: sa.Connection, name: tuple[str, str], form: ReportForm, rows: Sequence[sa.Row[Any]]) -> str:
    """The id of the variant that is meant, if there is something to say of it."""
    version = f"{name[0]}@{name[1]}"
    if not rows:
        raise ConflictError(
            f"Nothing was built of {version} for {form.profile} yet: "
            f"`edge-registry variant build {version} --profile {form.profile}`."
        )
    meant = [row for row in rows if (row.chosen if form.variant_id is None else row.variant_id == form.variant_id)]
    if not meant and form.variant_id is None:
        raise ConflictError(_nothing_chosen(connection, name, form.profile))
    if not meant:
        raise NotFoundError(
            f"There is no variant {form.variant_id} of {version} for {form.profile}: "
            f"`edge-registry variant list {version} --wide` shows all."
        )
    found = Variant.model_validate(meant[0].document)
    if found.manifest_sha256 is None or found.object_sha256 is None:
        why = found.reason or "it was not measured"
        raise ConflictError(f"Variant {found.variant_id} did not run here, so there is nothing to report: {why}")
    if found.delegate is Delegate.ETHOS_U:
        raise ConflictError(
            f"Variant {found.variant_id} runs on an NPU alone, and the registry has none to try it on: "
            f"{_for_the_cpu(rows)}."
        )
    return found.variant_id


def _for_the_cpu(rows: Sequence[sa.Row[Any]]) -> str:
    """What to do instead."""
    others = [row.variant_id for row in rows if row.delegate != Delegate.ETHOS_U and row.manifest_sha256]
    if not others:
        return "nothing of the profile runs on its CPU; `edge-registry variant show` tells what the compiler said"
    return f"report on one for the CPU, for example --variant {others[0]}"


def _nothing_chosen(connection: sa.Connection, name: tuple[str, str], profile: str) -> str:
    query = sa.select(choices.c.refusal).where(
        choices.c.model == name[0], choices.c.version == name[1], choices.c.profile == profile
    )
    refusal = connection.execute(query).scalar()
    why = f" ({refusal['sentence']})" if refusal else ""
    return f"{profile} gets no variant of {name[0]}@{name[1]}{why}: name one with --variant."
