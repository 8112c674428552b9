"""Between which variants deltas are to be made, and what became of them: reads and writes of the catalogue."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from compressors.contract import MadeDelta
from server.database.connect import Database
from server.database.tables import choices, deltas, devices, profiles, variants
from server.fleet.running import running_manifests
from server.jobs.claims import Claim, finish
from server.jobs.rows import insert_or_replace

BASES: Final = 2  # for a variant, from those that most devices of its lane run
MEMORY_SHARE: Final = 4  # of the memory of a device, what applying a delta may take


@dataclass(frozen=True, slots=True)
class WantedDelta:
    """From one packed variant to another."""

    base_manifest_sha256: str
    manifest_sha256: str
    memory_bytes: int
    """What the devices that would apply it can spare."""


def wanted_deltas(database: Database, model: str, version: str, names: tuple[str, ...]) -> list[WantedDelta]:
    """From what most devices of each profile run to what they would get."""
    with database.read() as connection:
        chosen = _chosen(connection, model, version, names)
        of_profiles = sa.select(devices.c.device_id, devices.c.profile).where(devices.c.profile.in_(names))
        profile_of = {row.device_id: row.profile for row in connection.execute(of_profiles)}
        running = list(running_manifests(connection, model, profiles=names))
        memory = {
            row.name: int(row.document["ram_bytes"]) // MEMORY_SHARE
            for row in connection.execute(sa.select(profiles).where(profiles.c.name.in_(names)))
        }
    found: dict[tuple[str, str], WantedDelta] = {}
    for profile, manifest in sorted(chosen.items()):
        counted = Counter(base for device, base in running if profile_of[device] == profile and base != manifest)
        for base, _ in counted.most_common(BASES):
            found.setdefault((base, manifest), WantedDelta(base, manifest, memory[profile]))
    return list(found.values())


def register_deltas(database: Database, claim: Claim, made: list[tuple[WantedDelta, MadeDelta]], *, now: float) -> None:
    """Write what was made, and what was not worthwhile, and end the job.

    Raises:
        LeaseLostError: the job is another worker's; nothing was changed.
    """
    with database.write() as connection:
        for wanted, one in made:
            row: dict[str, Any] = {
                "manifest_sha256": wanted.manifest_sha256,
                "base_manifest_sha256": wanted.base_manifest_sha256,
                "object_sha256": one.delta.object.sha256 if one.delta else None,
                "document": one.delta.model_dump(mode="json") if one.delta else sa.null(),
                "created_at": now,
            }
            insert_or_replace(connection, deltas, row)
        kept = sum(one.delta is not None for _, one in made)
        finish(connection, claim, result={"deltas": kept, "not_worthwhile": len(made) - kept}, now=now)


def _chosen(connection: sa.Connection, model: str, version: str, names: tuple[str, ...]) -> dict[str, str]:
    same = [variants.c[name] == choices.c[name] for name in ("model", "version", "profile", "variant_id")]
    query = (
        sa.select(choices.c.profile, variants.c.manifest_sha256)
        .select_from(choices.join(variants, sa.and_(*same)))
        .where(choices.c.model == model, choices.c.version == version, choices.c.profile.in_(names))
        .where(variants.c.manifest_sha256.is_not(None))
    )
    return {row.profile: row.manifest_sha256 for row in connection.execute(query)}
