"""A folder for one job, gone afterwards; what a killed worker left behind is cleared by the next one."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOCK_NAME: Final = "lock"
JOB_NAME: Final = "job"


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """A new folder for a job. Its lock lies beside it, out of the job's way, and lives as long as this process."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = Path(tempfile.mkdtemp(prefix="job-", dir=root))
    descriptor = os.open(place / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        folder = place / JOB_NAME
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(descriptor)


def clear_abandoned(root: Path) -> int:
    """Remove the folders whose worker is gone; returns how many."""
    if not root.is_dir():
        return 0
    removed = 0
    for place in root.glob("job-*"):
        try:
            descriptor = os.open(place / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # being made or removed this very moment
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(place, ignore_errors=True)
            removed += 1
        finally:
            os.close(descriptor)
    return removed
