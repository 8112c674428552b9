"""The command tree. Its modules import no more than typer at the top, so that `--help` and completion are quick."""

import sys
from typing import Annotated

import typer

from server.cli import (
    backup,
    compress,
    devices,
    init,
    jobs,
    models,
    profiles,
    recipes,
    retention,
    rollouts,
    telemetry,
    tokens,
    variants,
)
from server.cli.options import ConfigOption, DataDirOption, JsonOption, RegistryOption
from server.cli.output import say, show_json, show_table
from server.cli.session import connected, refusals

app = typer.Typer(
    name="edge-registry",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(profiles.app, name="profile")
app.add_typer(models.app, name="model")
app.add_typer(recipes.app, name="recipe")
app.add_typer(variants.app, name="variant")
app.add_typer(jobs.app, name="job")
app.add_typer(tokens.app, name="token")
app.add_typer(devices.app, name="device")
app.add_typer(rollouts.app, name="rollout")
app.command("init")(init.init)
app.command("compress")(compress.compress)
app.command("telemetry")(telemetry.telemetry)
app.command("gc")(retention.gc)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)


def _show_version(value: bool) -> None:  # noqa: FBT001  typer calls it with the flag's value
    if value:
        from importlib.metadata import version  # noqa: PLC0415  `--help` must not wait for it

        say(f"edge-registry {version('shoal')}")
        raise typer.Exit


@app.callback()
def program(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Push a model once; every kind of device gets the variant that fits it."""


@app.command()
def up(
    data_dir: DataDirOption = None,
    host: Annotated[str | None, typer.Option("--host", help="Name or address that devices can reach.")] = None,
    api_port: Annotated[int | None, typer.Option("--api-port", min=1, max=65535, help="Port of the HTTP API.")] = None,
    config: ConfigOption = None,
) -> None:
    """Run the whole registry on this machine until Ctrl-C."""
    with refusals():
        from server.settings import load_settings  # noqa: PLC0415  the server's packages
        from server.stack import run_stack  # noqa: PLC0415

        settings = load_settings(data_dir, config, {"host": host, "api_port": api_port})
        raise typer.Exit(run_stack(settings))


@app.command()
def status(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Whether what the registry stands on answers, and which of its processes work; exit code 1 if a part does not."""
    with connected(registry) as client:
        health = client.health()
        if as_json:
            show_json({"url": client.url, **health.model_dump(mode="json")})
        else:
            say(f"registry {client.url}  version {health.version}  {health.status}")
            parts = [("database", health.database), ("objects", health.objects), ("broker", health.broker)]
            show_table(("part", "state"), [*parts, *health.processes.items()])
    if health.status != "ok":
        raise typer.Exit(1)


def main() -> None:
    """The program."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
