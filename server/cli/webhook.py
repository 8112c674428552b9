"""`edge-registry webhook`."""

from typing import TYPE_CHECKING

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import say, show_json, show_table, text_of_time
from server.cli.session import connected

if TYPE_CHECKING:
    from server.schemas.webhook import Delivery, WebhookStatus

app = typer.Typer(help="The program that is told of every decision of a rollout.", no_args_is_help=True)


@app.callback()
def webhook() -> None:
    """Keep `status` a word of its own."""


@app.command()
def status(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """What was posted last, what failed, when the next try comes; exit code 1 while a failure holds decisions up."""
    with connected(registry) as client:
        found = client.get_webhook()
    if as_json:
        show_json(found.model_dump(mode="json"))
    else:
        _show(found)
    if found.next_try_at is not None:
        raise typer.Exit(1)


def _show(found: "WebhookStatus") -> None:
    if not found.receiver:
        say("no webhook is set: give webhook_url in registry.toml, or SHOAL_WEBHOOK_URL, and start the registry again")
    else:
        say(f"webhook {found.receiver}, {'signed' if found.signed else 'not signed'}")
        waits = f"{found.waiting} to be told, the first since {text_of_time(found.waiting_since)}"
        say(waits if found.waiting else "everything is told")
        if found.next_try_at is not None:
            say(f"next try at {text_of_time(found.next_try_at)}")
    rows = [
        (
            str(one.decision_id),
            f"{one.model}@{one.version}",
            one.rollout_id,
            one.action,
            text_of_time(one.decided_at),
            text_of_time(one.tried_at),
            str(one.attempts),
            _text_of_end(one),
        )
        for one in found.deliveries
    ]
    columns = ("decision", "model", "rollout", "action", "decided", "last try", "tries", "what became of it")
    show_table(columns, rows, empty="nothing was posted yet")


def _text_of_end(one: "Delivery") -> str:
    words = {"taken": "taken", "refused": "refused, not told again", "later": "told again later", "skipped": "skipped"}
    return f"{words.get(one.fate, one.fate)}{f': {one.failure}' if one.failure else ''}"
