"""`edge-registry telemetry`."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import show_documents, show_table, text_of_bytes, text_of_number
from server.cli.session import connected
from server.cli.tokens import seconds_of

if TYPE_CHECKING:
    from server.schemas.telemetry import TelemetryRow


def telemetry(
    by: Annotated[str, typer.Option("--by", help="Of device, profile, model, version, variant.")] = "profile,variant",
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Only of this version.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="Only the last 30m, 24h, 7d.")] = None,
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Latency and errors as the devices measured them; milliseconds of invoke, within 1 %."""
    groups = [part.strip() for part in by.split(",") if part.strip()]
    since_at = None if since is None else time.time() - seconds_of(since)
    with connected(registry) as client:
        rows = client.get_telemetry(by=groups, model=model, version=version, since=since_at)
    if as_json:
        show_documents(rows)
        return
    columns = (*groups, "devices", "requests", "n", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors", "rss")
    show_table(columns, [_row(row) for row in rows], empty="no telemetry yet")


def _row(row: "TelemetryRow") -> tuple[str, ...]:
    return (
        *row.group.values(),
        str(row.devices),
        str(row.requests),
        str(row.inferences),
        text_of_number(row.invoke.p50_ms),
        text_of_number(row.invoke.p95_ms),
        text_of_number(row.invoke.p99_ms),
        text_of_number(row.invoke.max_ms),
        ", ".join(f"{kind} {count}" for kind, count in sorted(row.errors.items())) or "0",
        text_of_bytes(row.rss_max_bytes),
    )
