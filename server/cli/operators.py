"""`edge-registry operator`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from server.cli.options import JsonOption, RegistryOption
from server.cli.output import say, show_documents, show_json, show_table, text_of_time
from server.cli.session import connected
from server.cli.tokens import seconds_of

if TYPE_CHECKING:
    from server.schemas.operators import OperatorToken

app = typer.Typer(help="Who may use the registry, and as what.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
ValidOption = Annotated[str, typer.Option("--valid", help="For how long: 12h, 90d; at most 366d.")]


@app.command()
def add(
    name: NameArgument,
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        typer.Option("--role", help="viewer: reads; operator: changes; admin: makes operators, too."),
    ],
    valid: ValidOption = "90d",
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make an operator; the token is shown this once."""
    with connected(registry) as client:
        made = client.add_operator(name, role, valid_s=seconds_of(valid))
        url = client.url
    _show(made, url, as_json=as_json)


@app.command("list")
def list_(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """All operators, without their tokens."""
    with connected(registry) as client:
        found = client.list_operators()
    if as_json:
        show_documents(found)
        return
    rows = [
        (
            one.name,
            one.role,
            one.token_id,
            f"{text_of_time(one.created_at)} by {one.created_by}",
            f"revoked {text_of_time(one.revoked_at)}" if one.revoked_at else f"until {text_of_time(one.expires_at)}",
        )
        for one in found
    ]
    show_table(("name", "role", "token", "made", "valid"), rows, empty="no operators")


@app.command()
def rotate(
    name: NameArgument, valid: ValidOption = "90d", registry: RegistryOption = None, *, as_json: JsonOption = False
) -> None:
    """Give an operator a new token; the present one ends at once."""
    with connected(registry) as client:
        made = client.rotate_operator(name, valid_s=seconds_of(valid))
        url = client.url
    _show(made, url, as_json=as_json)


@app.command()
def revoke(name: NameArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Make an operator's token worthless, at once."""
    with connected(registry) as client:
        client.revoke_operator(name)
    if as_json:
        show_json({"name": name, "revoked": True})
    else:
        say(f"the token of {name} is revoked")


def _show(made: "OperatorToken", url: str, *, as_json: bool) -> None:
    if as_json:
        show_json(made.model_dump(mode="json"))
        return
    say(made.token)
    say(f"{made.name}, {made.role}, until {text_of_time(made.expires_at)}; shown this once. There:")
    say(f"  edge-registry login {url}")
