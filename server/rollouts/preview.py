"""From the tables to the forecast of a rollout that nobody has started: reads, and writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edge_agent.protocol.delta import Delta
from server.database.tables import choices, deltas, variants
from server.fleet.running import running_manifests
from server.fleet.selector import parse
from server.rollouts.forecast import Fleet, Offer, forecast
from server.rollouts.plan import check_growing
from server.rollouts.requests import targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from server.database.connect import Database
    from server.schemas.rollouts import RolloutForecast, RolloutRequest


def forecast_rollout(database: Database, request: RolloutRequest, *, now: float) -> RolloutForecast:
    """What `start_rollout` would lead to.

    Raises:
        SelectorError: the selector can't be read.
        WavesError: a wave reaches no more devices than the one before.
        NotFoundError: no such version.
        InvalidError: the selector means no device.
    """
    selector = parse(request.selector)
    check_growing(request.waves)
    with database.read() as connection:
        meant = targets_of(connection, request, selector)
        offers = dict(_offers(connection, request.model, request.version))
        running = dict(running_manifests(connection, request.model))
        by_delta = _deltas(connection, offers)
    return forecast(
        request.model_copy(update={"selector": str(selector)}), Fleet(meant, offers, running, by_delta), now=now
    )


def _offers(connection: sa.Connection, model: str, version: str) -> Iterator[tuple[str, Offer]]:
    """By profile: what the search has decided, with its bytes."""
    same = (
        variants.c.model == choices.c.model,
        variants.c.version == choices.c.version,
        variants.c.profile == choices.c.profile,
        variants.c.variant_id == choices.c.variant_id,
    )
    columns = (variants.c.manifest_sha256, variants.c.manifest_bytes, variants.c.object_bytes)
    query = (
        sa.select(choices, *columns)
        .select_from(choices.outerjoin(variants, sa.and_(*same)))
        .where(choices.c.model == model, choices.c.version == version)
    )
    for row in connection.execute(query):
        yield row.profile, _offer(row)


def _offer(row: sa.Row[Any]) -> Offer:
    if row.variant_id and row.manifest_sha256:
        return Offer(row.variant_id, row.manifest_sha256, row.manifest_bytes or 0, row.object_bytes or 0)
    if row.variant_id:
        return Offer(refusal=f"Variant {row.variant_id} was chosen, but it could not be packed.")
    return Offer(refusal=(row.refusal or {}).get("sentence", "No variant fits this profile."))


def _deltas(connection: sa.Connection, offers: Mapping[str, Offer]) -> dict[tuple[str, str], int]:
    """By base and manifest: the bytes of each delta to what is offered."""
    columns = deltas.c
    manifests = {offer.manifest_sha256 for offer in offers.values()}
    query = sa.select(deltas).where(columns.object_sha256.is_not(None), columns.manifest_sha256.in_(sorted(manifests)))
    return {
        (row.base_manifest_sha256, row.manifest_sha256): Delta.model_validate(row.document).object.size_bytes
        for row in connection.execute(query)
    }
