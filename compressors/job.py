"""A job: `python -m compressors.job inspect|build|search|report|delta REQUEST.json RESULT.json`; `contract` has both.

It runs in a limited subprocess, without network. Errors become one sentence in the result file.
"""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path

from pydantic import ValidationError

from compressors.contract import (
    FAILED_EXIT_CODE,
    BuildRequest,
    BuildResult,
    DeltaRequest,
    DeltaResult,
    FailureBody,
    InspectRequest,
    InspectResult,
    JobFailure,
    ProgressLine,
    ReportRequest,
    ReportResult,
)
from compressors.errors import CompressorError, ExtraMissingError
from compressors.search_contract import SearchRequest, SearchResult

Result = InspectResult | BuildResult | SearchResult | ReportResult | DeltaResult
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def print_progress(line: ProgressLine) -> None:
    """One JSON object a line, at once."""
    sys.stdout.write(line.model_dump_json() + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run one job; the exit code is 0, or 2 with a `JobFailure` in the result file."""
    verb, request_path, result_path = arguments
    logging.disable(logging.WARNING)  # converters talk; what matters is in the result
    result: Result | JobFailure
    try:
        result = _done(verb, Path(request_path).read_bytes())
    except CompressorError as exc:
        result = _failure(exc.code, str(exc))
    except ValidationError as exc:
        result = _failure("bad_request", f"the request does not fit: {exc.errors(include_url=False)[0]['msg']}")
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] == __package__:
            raise  # a fault of ours: no installation mends it
        message = f"jobs need {exc.name}, which is not installed where they run: pip install 'shoal[compress]' there"
        result = _failure(ExtraMissingError.code, message)
    except MemoryError:
        message = (
            "the job needs more memory than it may have: raise job_memory_bytes, or use a smaller model or less data"
        )
        result = _failure("job_memory", message)
    except OSError as exc:
        if exc.errno not in NO_ROOM:
            raise  # a fault of ours
        where = f" ({exc.filename})" if exc.filename else ""
        message = f"the disk where jobs work is full or broken: {exc.strerror}{where}; make room there, and try again"
        result = _failure("worker_disk", message)
    Path(result_path).write_text(result.model_dump_json())
    return FAILED_EXIT_CODE if isinstance(result, JobFailure) else 0


def _done(verb: str, raw: bytes) -> Result:
    """The result of a job; what each verb takes seconds to import, it imports for itself."""
    match verb:
        case "inspect":
            from compressors.inputs.inspection import run_inspect  # noqa: PLC0415

            return run_inspect(InspectRequest.model_validate_json(raw))
        case "build":
            from compressors.building.run import run_build  # noqa: PLC0415

            return run_build(BuildRequest.model_validate_json(raw), print_progress)
        case "report":
            from compressors.reporting.run import run_report  # noqa: PLC0415

            return run_report(ReportRequest.model_validate_json(raw), print_progress)
        case "delta":
            from compressors.packing.delta_job import run_deltas  # noqa: PLC0415

            return run_deltas(DeltaRequest.model_validate_json(raw), print_progress)
        case _:
            from compressors.searching.run import run_search  # noqa: PLC0415

            return run_search(SearchRequest.model_validate_json(raw), print_progress)


def _failure(code: str, message: str) -> JobFailure:
    return JobFailure(error=FailureBody(code=code, message=message))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
