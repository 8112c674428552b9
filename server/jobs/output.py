"""What a job left: files that its result names, in a folder that an attacked job could have filled with anything."""

import stat
from pathlib import Path

from server.jobs.errors import BadResultError


def output_file(folder: Path, name: str) -> Path:
    """A file that the job left: an ordinary one, never a link to something that is not the job's.

    Raises:
        BadResultError: it is not there, or is no file.
    """
    path = folder / name
    try:
        mode = path.lstat().st_mode
    except OSError as exc:
        raise BadResultError(f"The job named a file {name} and did not leave it: report this as a bug.") from exc
    if folder.is_symlink() or not stat.S_ISREG(mode):
        raise BadResultError(f"The job left {name} as something that is no file: report this as a bug.")
    return path
