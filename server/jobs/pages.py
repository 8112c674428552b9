"""The files of a report as one object: a zip archive that is the same for the same files."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from server.jobs.errors import BadResultError
from server.jobs.output import output_file
from server.schemas.report import MAX_PAGES_BYTES, PAGE, PAGE_NAME


def zipped(folder: Path, names: Sequence[str]) -> bytes:
    """Pack the files that a job left.

    Raises:
        BadResultError: they are not what a report is made of, or too large.
    """
    if PAGE not in names or not all(PAGE_NAME.fullmatch(name) for name in names):
        raise BadResultError("The job left files that no report has: report this as a bug.")
    paths = [output_file(folder, name) for name in sorted(set(names))]
    total_bytes = sum(path.stat().st_size for path in paths)
    if total_bytes > MAX_PAGES_BYTES:
        raise BadResultError(
            f"The pages have {total_bytes} bytes, {MAX_PAGES_BYTES} are allowed: report this as a bug."
        )
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return held.getvalue()
