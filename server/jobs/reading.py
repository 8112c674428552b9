"""What a build needs from the catalogue: the model version, the profiles, and what devices measured. Reads only."""

import json
from collections import defaultdict
from statistics import median

import sqlalchemy as sa

from compressors.contract import BuiltVariant, DeviceFigure
from edge_agent.protocol.messages import SelfTestReport
from edge_agent.protocol.profile import DeviceProfile
from server.database.connect import Database
from server.database.tables import deployments, device_figures, devices, model_versions, profiles, variants
from server.jobs.errors import JobError
from server.schemas.catalogue import ModelVersion


def read_version(database: Database, model: str, version: str) -> ModelVersion:
    """The record of a model version.

    Raises:
        JobError: it does not exist.
    """
    query = sa.select(model_versions.c.document).where(
        model_versions.c.model == model, model_versions.c.version == version
    )
    with database.read() as connection:
        document = connection.execute(query).scalar_one_or_none()
    if document is None:
        raise JobError(f"There is no {model} {version}: its inspection failed, or it was never pushed.")
    return ModelVersion.model_validate(document)


def read_profiles(database: Database, names: tuple[str, ...]) -> tuple[DeviceProfile, ...]:
    """The profiles of these names, in their order.

    Raises:
        JobError: one of them does not exist.
    """
    query = sa.select(profiles.c.name, profiles.c.document).where(profiles.c.name.in_(names))
    with database.read() as connection:
        found = {row.name: row.document for row in connection.execute(query)}
    missing = [name for name in names if name not in found]
    if missing:
        raise JobError(f"There is no profile {', '.join(missing)}: add it with `edge-registry profile add`.")
    return tuple(DeviceProfile.model_validate_json(json.dumps(found[name])) for name in names)


def read_candidates(database: Database, model: str, version: str, profile: str) -> tuple[BuiltVariant, ...]:
    """All that was built of a model version for a profile, as the builds told of it."""
    query = sa.select(variants.c.document, variants.c.chosen).where(
        variants.c.model == model, variants.c.version == version, variants.c.profile == profile
    )
    with database.read() as connection:
        rows = connection.execute(query.order_by(variants.c.variant_id)).all()
    known = BuiltVariant.model_fields.keys()
    return tuple(
        BuiltVariant.model_validate_json(
            json.dumps({**{name: row.document[name] for name in known & row.document.keys()}, "chosen": row.chosen})
        )
        for row in rows
    )


def read_figures(database: Database, model: str, version: str) -> tuple[DeviceFigure, ...]:
    """What devices measured with variants of a model version: per profile and variant the median of their figures.

    The median, because one device that was hot or busy says little about its kind.
    """
    query = (
        sa.select(devices.c.profile, device_figures.c.variant_id, device_figures.c.report)
        .join(devices, devices.c.device_id == device_figures.c.device_id)
        .join(deployments, deployments.c.deployment_id == device_figures.c.deployment_id)
        .where(deployments.c.model == model, deployments.c.version == version)
    )
    measured: dict[tuple[str, str], list[SelfTestReport]] = defaultdict(list)
    with database.read() as connection:
        for profile, variant_id, document in connection.execute(query):
            report = SelfTestReport.model_validate_json(json.dumps(document))
            if report.runs and report.p95_ms > 0:
                measured[profile, variant_id].append(report)
    return tuple(
        DeviceFigure(
            profile=profile,
            variant_id=variant_id,
            p50_ms=median(report.p50_ms for report in found),
            p95_ms=median(report.p95_ms for report in found),
        )
        for (profile, variant_id), found in sorted(measured.items())
    )
