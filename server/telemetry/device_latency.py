"""How fast variants are on devices under real load: the p95 of each device, from its newest windows. Reads only."""

from collections.abc import Collection
from itertools import groupby
from typing import Final

import sqlalchemy as sa

from edge_agent.protocol.sketch import quantile_ms
from server.database.connect import Database
from server.database.tables import reports
from server.telemetry.codec import unpack
from server.telemetry.merge import SketchSum

WINDOWS: Final = 10_000  # the newest of some profiles: the work of a large fleet stays bounded
INFERENCES: Final = 200  # the 95th percentile then has ten values above it; a self-test does as many at most


def latency_p95_ms(telemetry: Database, profiles: Collection[str]) -> dict[tuple[str, str], float]:
    """The p95 of `invoke` by (variant id, device id), where at least `INFERENCES` of one sample tell it.

    Windows in which a request held more samples than one are left out: a limit is for one sample.

    Raises:
        DatabaseUnavailableError: the database does not answer.
        BadSketchError: a stored sketch is damaged.
    """
    newest = (
        sa.select(reports.c.variant_id, reports.c.device_id, reports.c.inferences, reports.c.sketches)
        .where(reports.c.profile.in_(profiles))
        .order_by(reports.c.received_at.desc())
        .limit(WINDOWS)
        .subquery()
    )
    query = sa.select(newest).order_by(newest.c.variant_id, newest.c.device_id)
    found: dict[tuple[str, str], float] = {}
    with telemetry.read() as connection:
        rows = connection.execute(query)
        for key, windows in groupby(rows, key=lambda row: (row.variant_id, row.device_id)):
            total = SketchSum()
            for window in windows:
                invoke = unpack(window.sketches).invoke
                if window.inferences <= invoke.count:
                    total.add(invoke)
            merged = total.sketch()
            p95_ms = quantile_ms(merged, 0.95)
            if p95_ms is not None and merged.count >= INFERENCES:
                found[key] = p95_ms
    return found
