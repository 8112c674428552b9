"""From the tables to the forecast of a rollout that nobody has started: reads, and writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edge_agent.protocol.messages import Desired, Status
from edge_agent.protocol.states import DeploymentState
from server.database.tables import choices, desired, device_states, variants
from server.fleet.selector import parse
from server.rollouts.forecast import Fleet, Offer, forecast
from server.rollouts.plan import check_growing
from server.rollouts.requests import targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        running = dict(_running(connection, request.model))
    return forecast(request.model_copy(update={"selector": str(selector)}), Fleet(meant, offers, running), now=now)


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
        return Offer(row.variant_id, row.manifest_sha256, (row.manifest_bytes or 0) + (row.object_bytes or 0))
    if row.variant_id:
        return Offer(refusal=f"Variant {row.variant_id} was chosen, but it could not be packed.")
    return Offer(refusal=(row.refusal or {}).get("sentence", "No variant fits this profile."))


def _running(connection: sa.Connection, model: str) -> Iterator[tuple[str, str]]:
    """By device: the manifest of what it is wanted to run of a model, where it has said that it runs it."""
    query = sa.select(desired.c.device_id, desired.c.document, device_states.c.status).join(
        device_states, device_states.c.device_id == desired.c.device_id
    )
    for row in connection.execute(query):
        entries = Desired.model_validate(row.document).deployments
        wanted = next((entry for entry in entries if entry.model == model), None)
        if wanted is None or row.status is None:
            continue
        told = Status.model_validate(row.status).deployments
        if any(one.deployment_id == wanted.deployment_id and one.state == DeploymentState.ACTIVE for one in told):
            yield row.device_id, wanted.manifest_sha256
