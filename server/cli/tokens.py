"""`edge-registry token`."""

import re
from typing import Annotated

import typer

from server.cli.options import JsonOption, RegistryOption, split_labels
from server.cli.output import fail, say, show_documents, show_json, show_table, text_of_labels, text_of_time
from server.cli.session import connected

app = typer.Typer(help="One-time tokens with which devices join.", no_args_is_help=True)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command()
def create(
    profile: Annotated[str | None, typer.Option("--profile", help="Only for devices of this profile.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE for the device; repeatable.")] = None,
    valid: Annotated[str, typer.Option("--valid", help="For how long: 30m, 24h, 7d.")] = "1h",
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a token; it is shown this once."""
    labels = {key: value for key, value in split_labels(label or []).items() if value is not None}
    with connected(registry) as client:
        token = client.create_token(profile=profile, labels=labels, valid_s=seconds_of(valid))
        url = client.url
    if as_json:
        show_json(token.model_dump(mode="json"))
        return
    say(token.token)
    say(f"valid until {text_of_time(token.expires_at)}; on the device:")
    say(f"  edge-agent start --registry {url} --token {token.token}")


@app.command("list")
def list_(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """All tokens, without their secrets."""
    with connected(registry) as client:
        found = client.list_tokens()
    if as_json:
        show_documents(found)
        return
    rows = [
        (
            token.token_id,
            token.profile or "any",
            text_of_labels(token.labels),
            text_of_time(token.expires_at),
            f"{token.device_id} {text_of_time(token.used_at)}" if token.used_at else "-",
        )
        for token in found
    ]
    show_table(("token", "profile", "labels", "expires", "used by"), rows, empty="no tokens")


@app.command()
def revoke(token_id: str, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Make a token worthless; a device that joined with it stays."""
    with connected(registry) as client:
        client.revoke_token(token_id)
    if as_json:
        show_json({"token_id": token_id, "revoked": True})
    else:
        say(f"token {token_id} is revoked")


def seconds_of(text: str) -> float:
    """A duration such as 90s, 30m, 24h, 7d; a bare number means seconds."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        fail(f"{text[:40]!r} is no duration; write for example 90s, 30m, 24h or 7d.", exit_code=2)
    return float(match[1]) * _UNITS[match[2] or "s"]
