"""The mark of a restore under way in a data folder: until it is done no registry may start there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from server.durable import replace_file, sync_folder
from server.errors import RegistryError

if TYPE_CHECKING:
    from pathlib import Path

MARK_NAME: Final = "restore.json"


class RestoreUnfinishedError(RegistryError):
    """A restore was cut off, and half of a registry is worse than none."""

    code = "restore_unfinished"


class Mark(BaseModel):
    """What a restore that is run again must know of the one that was cut off."""

    model_config = ConfigDict(frozen=True)

    registry_id: str
    taken_at: float
    """Of the backup; with the id it says which one."""
    epoch: int
    """The new one: a catalogue that has it is restored."""
    restored_at: float


def read_mark(data_dir: Path) -> Mark | None:
    """The mark of a restore that is under way, or was cut off; None: there is none.

    Raises:
        RestoreUnfinishedError: it can't be read.
    """
    path = data_dir / MARK_NAME
    try:
        return Mark.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise RestoreUnfinishedError(
            f"{path} can't be read: remove the folder {data_dir}, and restore into a new one."
        ) from exc


def write_mark(data_dir: Path, mark: Mark) -> None:
    """From now on nobody starts in this folder."""
    replace_file(data_dir / MARK_NAME, mark.model_dump_json(indent=2).encode())


def remove_mark(data_dir: Path) -> None:
    """The restore is done."""
    (data_dir / MARK_NAME).unlink()
    sync_folder(data_dir)


def refuse_half_restored(data_dir: Path) -> None:
    """Let nobody start where a restore was cut off.

    Raises:
        RestoreUnfinishedError: one was.
    """
    if (data_dir / MARK_NAME).exists():
        raise RestoreUnfinishedError(
            f"A restore into {data_dir} was cut off: run `edge-registry restore` again with the same backup, "
            "or remove the folder."
        )
