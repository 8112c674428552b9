"""What `jobs.request` holds: all that a worker needs to know of its job. Written by the API, read by the workers."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from edge_agent.protocol.base import Name, Sha256
from server.schemas.catalogue import PushForm
from server.schemas.common import ComputeDevice, Document
from server.schemas.recipes import Recipe
from server.schemas.search import Latencies

SEARCH_SHARE = 0.8  # of a job's time: the rest is for the build of what was found


class JobKind(StrEnum):
    """Kinds of jobs; `jobs.kind`."""

    INSPECT = "inspect"
    BUILD = "build"
    SEARCH = "search"
    REPORT = "report"
    DELTA = "delta"


class StoredFile(Document):
    """An uploaded file in the object store."""

    sha256: Sha256
    size_bytes: int


class InspectWork(Document):
    """Look into an uploaded model and its data; the model version exists once this is done."""

    source: StoredFile
    data: StoredFile
    train: StoredFile | None = None
    form: PushForm


class BuildWork(Document):
    """Build and judge the variants of a model version for these profiles; no recipes: all that are known."""

    profiles: tuple[Name, ...] = Field(min_length=1)
    recipes: tuple[Name, ...] = ()
    own_recipes: tuple[Recipe, ...] = ()
    device: ComputeDevice = "cpu"
    measure_again: bool = False


class SearchWork(Document):
    """Try recipes for one profile until the budget is spent, and build what was found."""

    profile: Name
    seconds: float | None = None
    trials: int | None = None
    until_fits: bool = False
    seed: int = 0
    replay: Latencies | None = None
    device: ComputeDevice = "cpu"
    rollout_id: str = ""  # of a lane that has asked for it; empty: an operator has
    latency_p95_ms: float | None = None  # the limit to search within, where it is tighter than the profile's


class ReportWork(Document):
    """Hold one variant of a profile against the float model; `shifted`: rows from elsewhere, which the user sent."""

    profile: Name
    variant_id: Name
    shifted: StoredFile | None = None
    measure_again: bool = False


class DeltaWork(Document):
    """Make deltas to what these profiles get of a model version, from what most of their devices run."""

    profiles: tuple[Name, ...] = Field(min_length=1)
