"""`edge-registry gc`."""

from typing import Annotated

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import say, show_json, show_table, text_of_bytes
from server.cli.session import connected


def gc(
    registry: RegistryOption = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Have done now what the registry does hourly: delete what is too old or named by nobody, merge old telemetry."""
    with connected(registry) as client:
        report = client.sweep(dry_run=dry_run)
    if as_json:
        show_json(report.model_dump(mode="json"))
        return
    rows = [
        (swept.kind, str(swept.count), text_of_bytes(swept.size_bytes) if swept.size_bytes else "-", swept.rule)
        for swept in report.swept
    ]
    show_table(("what", "would go" if dry_run else "goes", "bytes", "rule"), rows)
    if dry_run:
        say("nothing was deleted; what a device may fetch or go back to is never among it")
    else:
        say("the registry's processes delete it now; `edge-registry gc --dry-run` shows what is left")
