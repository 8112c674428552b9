"""Float model in, variants and a measured report out. No network, no database; torch is imported when it is needed.

The registry runs it as `python -m compressors.job` (see `contract`). As a library, `compressors.build(request)` does
the same in this process: see `compressors.contract.BuildRequest` for what it wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.contract import (
        BuildRequest,
        BuildResult,
        InspectRequest,
        InspectResult,
        ProgressLine,
        ReportRequest,
        ReportResult,
    )
    from compressors.search_contract import SearchRequest, SearchResult

__all__ = ["build", "inspect", "report_on", "search"]


def inspect(request: InspectRequest) -> InspectResult:
    """Look into a `.pt2` and its evaluation data; raises `compressors.errors.CompressorError` with one sentence."""
    from compressors.inputs.inspection import run_inspect  # noqa: PLC0415  torch takes seconds to import

    return run_inspect(request)


def build(request: BuildRequest) -> BuildResult:
    """Build, measure and judge variants; raises `compressors.errors.CompressorError` with one sentence."""
    from compressors.building.run import run_build  # noqa: PLC0415  torch takes seconds to import

    return run_build(request)


def search(request: SearchRequest, on_progress: Callable[[ProgressLine], None] = lambda _line: None) -> SearchResult:
    """Try recipes for one profile, the usual ones first, until the budget is spent or, if asked, the limits are met.

    Each recipe is built, run on the profile's runtime on this host, and scored on the selection split; small are to be
    its latency, its download and its loss, within the profile's limits. The same request with the same number of trials
    and a recorded latency table (`replay`, the `latencies` of an earlier result) gives the same front. With a
    `cache_dir` a search that was killed goes on where it was. The test split is read for the variants of the front
    alone, and only where an `output_dir` is named.

    Args:
        request: the files, the profile, the budget in seconds or trials, the seed; see `search_contract.SearchRequest`.
        on_progress: is told what is tried and the running front, whose first recipes are there within the first minute.

    Raises:
        compressors.errors.CompressorError: the search can't begin or go on; one sentence. A recipe that can't be built
            is a trial with a `refusal`, no error.
    """
    from compressors.searching.run import run_search  # noqa: PLC0415  torch takes seconds to import

    return run_search(request, on_progress)


def report_on(request: ReportRequest, on_progress: Callable[[ProgressLine], None] = lambda _line: None) -> ReportResult:
    """Hold one built variant against the float model, and write what was found as pages for people and programs.

    Both files run on the variant's own runtime and delegate, in this process where that runtime is here, else in the
    Python that has it. The test split is read, so that what the pages say must decide about no step of a recipe.

    Args:
        request: the files, the variant as its build told of it, and the folder of the pages; see
            `contract.ReportRequest`.
        on_progress: is told of each stage.

    Raises:
        compressors.errors.CompressorError: the variant does not run here, or a file does not fit; one sentence.
    """
    from compressors.reporting.run import run_report  # noqa: PLC0415  torch takes seconds to import

    return run_report(request, on_progress)
