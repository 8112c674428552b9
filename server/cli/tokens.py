"""`edge-registry token`."""

import re
from typing import Annotated

import typer

from server.cli.options import JsonOption, RegistryOption, split_labels
from server.cli.output import fail, say, show_documents, show_json, show_table, text_of_labels, text_of_time
from server.cli.session import connected

app = typer.Typer(help="Tokens with which devices enrol.", no_args_is_help=True)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command()
def create(  # noqa: PLR0913  one for each option
    profile: Annotated[str | None, typer.Option("--profile", help="Only for devices of this profile.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE for the device; repeatable.")] = None,
    valid: Annotated[str, typer.Option("--valid", help="For how long: 30m, 24h, 7d.")] = "1h",
    registry: RegistryOption = None,
    *,
    replace: Annotated[
        str | None, typer.Option("--replace", metavar="DEVICE", help="For a device that takes this one's place.")
    ] = None,
    uses: Annotated[int, typer.Option("--uses", min=1, help="More than one: a claim for a batch of devices.")] = 1,
    per_hour: Annotated[int | None, typer.Option("--per-hour", min=1, help="So many of them in an hour.")] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Let each in by `edge-registry device approve`.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a token; it is shown this once."""
    labels = {key: value for key, value in split_labels(label or []).items() if value is not None}
    with connected(registry) as client:
        options = {"replaces": replace, "max_uses": uses, "uses_per_hour": per_hour, "needs_approval": approve}
        token = client.create_token(profile=profile, labels=labels, valid_s=seconds_of(valid), **options)
        url = client.url
    if as_json:
        show_json(token.model_dump(mode="json"))
        return
    say(token.token)
    say(f"valid until {text_of_time(token.expires_at)}; on the device:")
    say(f"  edge-agent enroll {url} --token {token.token}")


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
            "1" if token.max_uses == 1 else f"{token.uses} of {token.max_uses}",
            f"{token.device_id} {text_of_time(token.used_at)}" if token.used_at else "-",
        )
        for token in found
    ]
    show_table(("token", "profile", "labels", "expires", "uses", "used by"), rows, empty="no tokens")


@app.command()
def revoke(token_id: str, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Make a token worthless; a device that enrolled with it stays."""
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
