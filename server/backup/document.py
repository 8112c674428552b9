"""`backup.json`: what a backup holds. It is written last: a folder without it is no backup."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  pydantic reads it
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from server.durable import replace_file
from server.errors import RegistryError
from server.stack.objects import KEYS_NAME
from server.stack.state import StackState
from server.trust.paths import FOLDER_NAME

FORMAT: Final = 1  # grows when an older release could not restore it any more
DOCUMENT_NAME: Final = "backup.json"
CATALOGUE_NAME: Final = "catalogue.db"
TELEMETRY_NAME: Final = "telemetry.db"
# An S3 key signs the addresses that devices were given. By its name here, and in the data folder.
STORE_SECRETS: Final = {KEYS_NAME: KEYS_NAME}
# What devices know the registry by: without the authority's keys all of them would have to enrol anew. What it issues
# for its own processes, and its lists, `up` makes again. The root's key is here only where it was not put elsewhere.
TRUST_SECRETS: Final = {
    f"{FOLDER_NAME}-{name}": f"{FOLDER_NAME}/{name}"
    for name in ("root.crt", "root.key", "intermediate.key", "intermediate.crt")
}

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# no path: who writes by these names must not leave the folder
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class BackupError(RegistryError):
    """A folder that can't become a backup, or is none, or is damaged."""

    code = "bad_backup"


class FileEntry(BaseModel):
    """One file of the folder."""

    model_config = ConfigDict(frozen=True)

    size_bytes: int = Field(ge=0)
    sha256: Sha256


class BackupDocument(BaseModel):
    """What `backup.json` holds. Times are seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    release: str = Field(description="of Shoal, that wrote it")
    taken_at: float = Field(description="of which moment it tells")
    registry_id: str
    epoch: int
    steps: dict[str, str] = Field(description="the migration that each database had reached")
    rows: dict[str, int] = Field(description="by table")
    files: dict[FileName, FileEntry]
    objects: dict[Sha256, int] = Field(description="size in bytes by sha256; each lies at objects/XX/SHA256")
    missing_objects: tuple[Sha256, ...] = Field((), description="named by the catalogue, and not in the store either")
    stack: StackState | None = Field(None, description="the addresses of its `up`, if it had one")

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(entry.size_bytes for entry in self.files.values()) + sum(self.objects.values())


def object_path(folder: Path, sha256: str) -> Path:
    """Where an object lies in a backup."""
    return folder / "objects" / sha256[:2] / sha256


def write_document(folder: Path, document: BackupDocument) -> None:
    """Make a folder a backup: from now on it counts, and everything in it is on the disk."""
    replace_file(folder / DOCUMENT_NAME, document.model_dump_json(indent=1).encode())


def read_document(folder: Path) -> BackupDocument:
    """What a backup holds, by its own word.

    Raises:
        BackupError: the folder is no backup, or one that this release can't read.
    """
    path = folder / DOCUMENT_NAME
    try:
        document = BackupDocument.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise BackupError(_no_backup(folder)) from exc
    except OSError as exc:
        raise BackupError(f"{path} can't be read: {exc.strerror}.") from exc
    except ValidationError as exc:
        raise BackupError(f"{path} is damaged, or not of this release: restore another backup.") from exc
    if document.format > FORMAT:
        raise BackupError(
            f"The backup in {folder} has format {document.format}, this release reads up to {FORMAT}: "
            f"install Shoal {document.release} or later."
        )
    return document


def _no_backup(folder: Path) -> str:
    if not folder.is_dir():
        return f"There is no folder {folder}."
    if (folder / CATALOGUE_NAME).exists():
        return f"The backup in {folder} was cut off (it has no {DOCUMENT_NAME}): remove it, and use another one."
    return f"{folder} is no backup: it has no {DOCUMENT_NAME}."
