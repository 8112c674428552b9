"""`edge-registry init`: the authority of a registry, before its first start. `up` makes one by itself."""

import time
from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import JsonOption
from server.cli.output import say, show_json
from server.cli.session import refusals


def init(
    data_dir: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The registry's data folder.", envvar="SHOAL_DATA_DIR")
    ] = None,
    root_elsewhere: Annotated[
        Path | None,
        typer.Option(
            "--root-elsewhere", metavar="DIR", help="Where the root's key goes, to be taken off this machine."
        ),
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make the registry's own certificate authority; `up` does it by itself, with the root's key in the data folder."""
    with refusals():
        from server.settings import load_settings  # noqa: PLC0415  the server's packages
        from server.trust.folder import TrustFolder  # noqa: PLC0415

        settings = load_settings(data_dir)
        folder = TrustFolder(settings.trust_dir)
        fingerprint = folder.make(settings.host, now=time.time(), root_elsewhere=root_elsewhere)
    key = (root_elsewhere or folder.paths.folder) / folder.paths.root_key.name
    if as_json:
        show_json({"folder": str(folder.paths.folder), "root_key": str(key), "root_sha256": fingerprint})
        return
    say(f"authority made in {folder.paths.folder}; root certificate SHA-256 {fingerprint}")
    if root_elsewhere is not None:
        say(f"the root's key is {key}: take it off this machine; only a new intermediate needs it")
    else:
        say(f"the root's key is {key}: move it to a safe place; only a new intermediate needs it")
