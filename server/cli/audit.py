"""`edge-registry audit`."""

import re
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import fail, say, show_documents, show_json, show_table, text_of_time
from server.cli.session import connected
from server.cli.tokens import seconds_of

if TYPE_CHECKING:
    from server.client import RegistryClient
    from server.schemas.audit import AuditEntry

SHOWN: Final = 50
CELL: Final = 80
_HEAD: Final = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


def audit(
    since: Annotated[str | None, typer.Option("--since", help="How far back: 90s, 30m, 24h, 7d.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Without --since: so many.")] = SHOWN,
    registry: RegistryOption = None,
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Look at the whole chain; exit code 1 if it is broken.")
    ] = False,
    head: Annotated[
        str | None, typer.Option("--head", help="NUMBER:SHA256 that an earlier --verify printed: must still be there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Who changed what, and who tried; newest last."""
    noted = _noted(head) if head is not None else None
    with connected(registry) as client:
        if verify or noted is not None:
            _verify(client, noted, as_json=as_json)
            return
        found = client.read_audit(newest=limit) if since is None else _since(client, time.time() - seconds_of(since))
    if as_json:
        show_documents(found)
        return
    rows = [
        (
            str(entry.sequence),
            text_of_time(entry.at),
            entry.who,
            entry.change or f"{entry.operation or '-'} {entry.outcome}",
            entry.subject,
            _story(entry),
        )
        for entry in found
    ]
    show_table(("row", "when", "who", "what", "of", "before -> after"), rows, empty="nothing was changed", folded=False)


def _since(client: "RegistryClient", since: float) -> "list[AuditEntry]":
    found: list[AuditEntry] = []
    while page := client.read_audit(after=found[-1].sequence if found else 0, since=since):
        found += page
    return found


def _verify(client: "RegistryClient", noted: tuple[int, str] | None, *, as_json: bool) -> None:
    check, there = client.verify_audit(head=noted)
    if as_json:
        broken = {"sequence": check.broken.sequence, "reason": check.broken.reason} if check.broken else None
        document = {"rows": check.sequence, "head": f"{check.sequence}:{check.sha256}", "broken": broken}
        show_json({**document, "noted_head_is_there": there})
    if check.broken is not None:
        fail(f"The audit log is broken at row {check.broken.sequence}: {check.broken.reason}.")
    if not there:
        fail("The audit log does not hold the row that was noted: its end was cut off, or all of it was written anew.")
    if not as_json:
        say(f"the audit log is whole: {check.sequence} rows")
        say(f"note its head elsewhere, and give it with --head next time: {check.sequence}:{check.sha256}")


def _noted(text: str) -> tuple[int, str]:
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        fail("--head is NUMBER:SHA256, as `edge-registry audit --verify` prints it.", exit_code=2)
    return int(match[1]), match[2]


def _story(entry: "AuditEntry") -> str:
    before, after = (text if len(text) <= CELL else f"{text[: CELL - 3]}..." for text in (entry.before, entry.after))
    return f"{before} -> {after}" if before else after
