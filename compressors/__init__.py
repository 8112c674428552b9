"""Float model in, variants and a measured report out. No network, no database; torch is imported when it is needed.

The registry runs it as `python -m compressors.job` (see `contract`). As a library, `compressors.build(request)` does
the same in this process: see `compressors.contract.BuildRequest` for what it wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compressors.contract import BuildRequest, BuildResult, InspectRequest, InspectResult

__all__ = ["build", "inspect"]


def inspect(request: InspectRequest) -> InspectResult:
    """Look into a `.pt2` and its evaluation data; raises `compressors.errors.CompressorError` with one sentence."""
    from compressors.inspection import run_inspect  # noqa: PLC0415  torch takes seconds to import

    return run_inspect(request)


def build(request: BuildRequest) -> BuildResult:
    """Build, measure and judge variants; raises `compressors.errors.CompressorError` with one sentence."""
    from compressors.building import run_build  # noqa: PLC0415  torch takes seconds to import

    return run_build(request)
