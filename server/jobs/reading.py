"""What a build needs from the catalogue: the model version, the profiles, and what devices measured. Reads only."""

import json
from collections import defaultdict
from statistics import median
from typing import Final

import sqlalchemy as sa

from compressors.contract import BuiltVariant, DeviceFigure, HostRun
from edge_agent.protocol.messages import SelfTestReport
from edge_agent.protocol.profile import Delegate, DeviceProfile, RuntimeName
from server.database.connect import Database
from server.database.tables import device_figures, devices, model_versions, profiles, variants
from server.jobs.errors import JobError
from server.schemas.catalogue import ModelVersion, Variant
from server.schemas.common import Origin
from server.telemetry.device_latency import latency_p95_ms

SELF_TESTS: Final = 20_000  # the newest of some profiles: the work of a large fleet stays bounded


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
        raise JobError(
            f"There is no {model} {version}: its inspection failed or was cancelled, or it was never pushed."
        )
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


def within(profile: DeviceProfile, latency_p95_ms: float) -> DeviceProfile:
    """A profile that allows no longer p95 than this, nor than before."""
    limit_ms = profile.limits.latency_p95_ms
    tighter_ms = latency_p95_ms if limit_ms is None else min(limit_ms, latency_p95_ms)
    limits = profile.limits.model_copy(update={"latency_p95_ms": tighter_ms})
    return profile.model_copy(update={"limits": limits})


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


def read_figures(catalogue: Database, telemetry: Database, profiles: tuple[str, ...]) -> tuple[DeviceFigure, ...]:
    """What devices of some profiles measured with variants of any model: per variant the median of its devices.

    A device tells its p95 by telemetry, which is under real load, where it has told enough; else by its self-test. The
    median, because one device that was hot, busy or lies says little about its kind.

    Raises:
        DatabaseUnavailableError: a database does not answer.
    """
    query = (
        sa.select(device_figures.c.device_id, device_figures.c.report, variants.c.variant_id, variants.c.document)
        .join(devices, devices.c.device_id == device_figures.c.device_id)
        .join(
            variants,
            # not by the deployment: another attempt has taken the place of one that was rejected; an id names one file
            sa.and_(
                variants.c.profile == devices.c.profile,  # a device that has another profile by now tells of neither
                variants.c.variant_id == device_figures.c.variant_id,
            ),
        )
        .where(devices.c.profile.in_(profiles))
        .order_by(device_figures.c.received_at.desc())
        .limit(SELF_TESTS)
    )
    with catalogue.read() as connection:
        rows = connection.execute(query).all()
    if not rows:
        return ()
    under_load = latency_p95_ms(telemetry, profiles)
    built: dict[str, Variant] = {}
    measured: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        report = SelfTestReport.model_validate_json(json.dumps(row.report))
        p95_ms = under_load.get((row.variant_id, row.device_id), report.p95_ms if report.runs else 0.0)
        if p95_ms > 0:
            built.setdefault(row.variant_id, Variant.model_validate_json(json.dumps(row.document)))
            measured[row.variant_id].setdefault(row.device_id, p95_ms)  # the newest of its self-tests
    return tuple(
        DeviceFigure(
            profile=built[variant_id].profile,
            variant_id=variant_id,
            p95_ms=median(of_device.values()),
            host=_host_run(built[variant_id]),
        )
        for variant_id, of_device in sorted(measured.items())
    )


def _host_run(variant: Variant) -> HostRun | None:
    """What a host measured with a variant's file; nothing of one for an NPU, nor where the host's CPU is not known."""
    p50_ms, cpu_model = variant.latency_p50_ms, variant.host_cpu_model
    if cpu_model is None or p50_ms is None or p50_ms.origin is not Origin.HOST or p50_ms.value <= 0:
        return None
    return HostRun(
        cpu_model=cpu_model,
        runtime=RuntimeName(variant.runtime),
        delegate=Delegate(variant.delegate),
        last_step=variant.steps[-1].step if variant.steps else "export-litert",  # one that was pushed as a file
        p50_ms=p50_ms.value,
    )
