"""Model versions, their variants and choices, as the workers have written them; and asking for builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.catalogue.deltas import deltas_of
from server.catalogue.jobs import WantedJob, enqueue, latest_job
from server.catalogue.near import no_model, no_version
from server.catalogue.profiles import profile_names, require_profiles
from server.catalogue.recipe_book import refuse_taken_names
from server.database.tables import choices, model_versions, retired_versions, variants
from server.errors import ConflictError, NotFoundError
from server.schemas.catalogue import Choice, Job, JobState, ModelVersion, Refusal, Variant
from server.schemas.common import Verdict
from server.schemas.work import BuildWork, JobKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.database.connect import Database
    from server.schemas.catalogue import BuildRequest

_VERDICTS: Final = list(Verdict)  # from the best to the worst
_ALL: Final[sa.Select[Any]] = sa.select(model_versions.c.document, retired_versions.c.retired_at).outerjoin(
    retired_versions,
    sa.and_(retired_versions.c.model == model_versions.c.model, retired_versions.c.version == model_versions.c.version),
)


def list_models(database: Database, *, retired: bool = False) -> list[ModelVersion]:
    """The newest version of each model, by name; `retired`: those that are out of use count, too."""
    newest: dict[str, ModelVersion] = {}
    for version in _versions(database):
        if retired or version.retired_at is None:
            newest.setdefault(version.model, version)
    return [newest[name] for name in sorted(newest)]


def list_versions(database: Database, model: str, *, retired: bool = False) -> list[ModelVersion]:
    """All versions of a model, newest first; `retired`: with those that are out of use.

    Raises:
        NotFoundError: the model has none.
    """
    known = _versions(database, model_versions.c.model == model)
    if not known:
        with database.read() as connection:
            raise NotFoundError(no_model(model, _models(connection)))
    found = [version for version in known if retired or version.retired_at is None]
    if not found:
        raise NotFoundError(f"Every version of model {model} is retired: `edge-registry model show {model} --all`.")
    return found


def versions_of(connection: sa.Connection, model: str) -> list[str]:
    """The names of all versions of a model, newest first.

    Raises:
        NotFoundError: the model has none.
    """
    query = sa.select(model_versions.c.version).where(model_versions.c.model == model)
    names = list(connection.execute(query.order_by(model_versions.c.created_at.desc())).scalars())
    if not names:
        raise NotFoundError(no_model(model, _models(connection)))
    return names


def retired_times(connection: sa.Connection, model: str) -> dict[str, float]:
    """When versions of a model were taken out of use, by name."""
    query = sa.select(retired_versions.c.version, retired_versions.c.retired_at)
    return {row.version: row.retired_at for row in connection.execute(query.where(retired_versions.c.model == model))}


def get_version(database: Database, model: str, version: str) -> ModelVersion:
    """One version.

    Raises:
        NotFoundError: it was never pushed, or the push was refused or cancelled: the sentence says why.
        ConflictError: it is still being looked into.
    """
    with database.read() as connection:
        return require_version(connection, model, version)


def require_version(connection: sa.Connection, model: str, version: str) -> ModelVersion:
    """The same, inside a transaction of the caller."""
    row = connection.execute(_ALL.where(model_versions.c.model == model, model_versions.c.version == version)).first()
    if row is not None:
        return _version(row)
    job = latest_job(connection, JobKind.INSPECT, model, version)
    if job is None:
        raise NotFoundError(_unknown_version(connection, model, version))
    if job.state is JobState.FAILED:
        reason = job.error.message if job.error else "the reason is not known."
        raise NotFoundError(f"Version {version} of model {model} was refused: {reason}")
    if job.state is JobState.CANCELLED or job.stopping:
        raise NotFoundError(
            f"Version {version} of model {model} was never inspected: job {job.job_id} was cancelled; push it again."
        )
    raise ConflictError(f"Version {version} of model {model} is still being inspected: wait for job {job.job_id}.")


def require_usable(connection: sa.Connection, model: str, version: str) -> ModelVersion:
    """A version of which something new may be made.

    Raises:
        NotFoundError: it was never pushed, or the push was refused.
        ConflictError: it is still being looked into, or is retired.
    """
    found = require_version(connection, model, version)
    if found.retired_at is not None:
        raise ConflictError(
            f"Version {version} of model {model} is retired: `edge-registry model retire {model}@{version} --undo` "
            "brings it back."
        )
    return found


def list_variants(
    database: Database, model: str, version: str, *, profile: str | None = None, steps: bool = False
) -> list[Variant]:
    """Everything that was built of a version, the chosen one of each profile first; `steps`: with what made it."""
    query = sa.select(variants.c.document, variants.c.chosen).where(
        variants.c.model == model, variants.c.version == version
    )
    if profile is not None:
        query = query.where(variants.c.profile == profile)
    with database.read() as connection:
        require_version(connection, model, version)
        rows = connection.execute(query).all()
        made = deltas_of(connection, [row.document.get("manifest_sha256") for row in rows])
    # the column decides who is chosen: a later measurement may move it without touching the document
    left_out = {} if steps else {"steps": ()}
    found = [
        Variant.model_validate(
            {
                **row.document,
                "chosen": row.chosen,
                "deltas": made.get(row.document.get("manifest_sha256"), ()),
                **left_out,
            }
        )
        for row in rows
    ]
    return sorted(found, key=_best_first)


def list_choices(database: Database, model: str, version: str) -> list[Choice]:
    """What each profile gets of a version, or why nothing."""
    query = sa.select(choices).where(choices.c.model == model, choices.c.version == version)
    with database.read() as connection:
        require_version(connection, model, version)
        rows = connection.execute(query.order_by(choices.c.profile)).all()
    return [_choice(row) for row in rows]


def request_builds(database: Database, model: str, version: str, request: BuildRequest, *, now: float) -> list[Job]:
    """Ask for the variants of a version, for the profiles named or for all that are registered.

    Raises:
        NotFoundError: no such version or profile.
        InvalidError: no profile is registered, or a recipe of one's own has a ready-made one's name.
    """
    refuse_taken_names(request.own_recipes)
    with database.write() as connection:
        require_usable(connection, model, version)
        names = require_profiles(connection, request.profiles) or profile_names(connection)
        work = BuildWork(
            profiles=tuple(sorted(set(names))),
            recipes=tuple(sorted(set(request.recipes))),
            own_recipes=tuple(sorted(request.own_recipes, key=lambda recipe: recipe.name)),
            device=request.device,
            measure_again=request.again,
        )
        return [_enqueue_build(connection, model, version, work, now=now)]


def build_missing(
    connection: sa.Connection, model: str, version: str, profiles: Iterable[str], *, now: float
) -> Job | None:
    """Ask for the variants of those profiles that have no choice yet; None: all have one."""
    query = sa.select(choices.c.profile).where(choices.c.model == model, choices.c.version == version)
    missing = sorted(set(profiles) - set(connection.execute(query).scalars()))
    if not missing:
        return None
    return _enqueue_build(connection, model, version, BuildWork(profiles=tuple(missing)), now=now)


def _unknown_version(connection: sa.Connection, model: str, version: str) -> str:
    query = sa.select(model_versions.c.version).where(model_versions.c.model == model)
    versions = list(connection.execute(query.order_by(model_versions.c.created_at.desc())).scalars())
    return no_version(model, version, versions) if versions else no_model(model, _models(connection))


def _models(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(model_versions.c.model).distinct()).scalars())


def _best_first(variant: Variant) -> tuple[str, bool, int, str]:
    return variant.profile, not variant.chosen, _VERDICTS.index(variant.verdict), variant.variant_id


def _enqueue_build(connection: sa.Connection, model: str, version: str, work: BuildWork, *, now: float) -> Job:
    # one that measures again is other work than one that need not, also while that one is still queued
    document = work.model_dump(mode="json")
    wanted = WantedJob(JobKind.BUILD, model, version, identity=document, request=document)
    return enqueue(connection, wanted, now=now, again=work.measure_again).job


def _versions(database: Database, *conditions: sa.ColumnElement[bool]) -> list[ModelVersion]:
    with database.read() as connection:
        rows = connection.execute(_ALL.where(*conditions).order_by(model_versions.c.created_at.desc())).all()
    return [_version(row) for row in rows]


def _version(row: sa.Row[Any]) -> ModelVersion:
    return ModelVersion.model_validate({**row.document, "retired_at": row.retired_at})


def _choice(row: sa.Row[Any]) -> Choice:
    return Choice(
        model=row.model,
        version=row.version,
        profile=row.profile,
        variant_id=row.variant_id,
        reason=row.reason,
        refusal=Refusal.model_validate(row.refusal) if row.refusal else None,
    )
