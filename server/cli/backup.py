"""`edge-registry backup` and `edge-registry restore`: run where the registry runs, on its data folder and settings."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import ConfigOption, DataDirOption, JsonOption
from server.cli.output import fail, say, show_json, stage_bar, text_of_bytes, text_of_time
from server.cli.session import refusals

if TYPE_CHECKING:
    from server.backup.document import BackupDocument
    from server.settings import RegistrySettings

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the backup.")]


def backup(
    folder: FolderArgument,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="Make none: read the one that is there again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the registry into an empty folder while it runs: databases, objects, and what devices know it by."""
    with refusals():
        from server.backup.check import check_backup  # noqa: PLC0415  the server's packages
        from server.backup.take import take_backup  # noqa: PLC0415

        with stage_bar("check" if check else "backup") as told:
            if check:
                document = check_backup(folder, told=told)
            else:
                document = take_backup(_settings(data_dir, config), folder, clock=time.time, told=told)
    _show(folder, document, "is whole" if check else "is made", as_json=as_json)
    if document.missing_objects:
        fail(
            f"It lacks objects that the catalogue names, because the store has lost or damaged them: "
            f"{len(document.missing_objects)}, the first is {document.missing_objects[0]}."
        )


def restore(
    folder: FolderArgument,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a registry of a backup, in an empty data folder and empty databases; `up` then starts it."""
    with refusals():
        from server.backup.restore import restore_backup  # noqa: PLC0415  the server's packages

        settings = _settings(data_dir, config)
        with stage_bar("restore") as told:
            document = restore_backup(settings, folder, clock=time.time, told=told)
    _show(folder, document, f"is restored into {settings.data_dir}", as_json=as_json)
    if not as_json:
        host = document.stack.host if document.stack else settings.host
        flag = "" if host == settings.host else f" --host {host}"
        say(f"start it, where devices look for it: edge-registry up --data-dir {settings.data_dir}{flag}")


def _settings(data_dir: Path | None, config: Path | None) -> "RegistrySettings":
    from server.settings import load_settings  # noqa: PLC0415

    return load_settings(data_dir, config)


def _show(folder: Path, document: "BackupDocument", word: str, *, as_json: bool) -> None:
    rows, objects = sum(document.rows.values()), len(document.objects)
    if as_json:
        show_json(
            {
                "folder": str(folder),
                **document.model_dump(mode="json", exclude={"files", "objects", "stack"}),
                "objects": objects,
                "size_bytes": document.size_bytes,
            }
        )
        return
    say(
        f"the backup of {text_of_time(document.taken_at)} in {folder} {word}: {rows} rows and {objects} objects, "
        f"{text_of_bytes(document.size_bytes)}"
    )
