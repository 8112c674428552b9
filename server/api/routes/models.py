"""Models, versions, variants and jobs."""

from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from edge_agent.protocol.base import Name
from server.api.ports import PortsOf
from server.api.upload import PUSH, receiving
from server.catalogue import jobs, recipe_book, searches, versions
from server.catalogue.push import Upload, accept_push
from server.schemas.catalogue import (
    BuildRequest,
    Choice,
    Job,
    JobCancellation,
    ModelVersion,
    PushAccepted,
    PushForm,
    Variant,
)
from server.schemas.recipes import RecipeBook
from server.schemas.search import Search, SearchForm

router = APIRouter(prefix="/v1", tags=["models"])

_MULTIPART: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["form", "source", "data"],
                    "properties": {
                        "form": PushForm.model_json_schema(ref_template="#/components/schemas/{model}"),
                        "source": {"type": "string", "format": "binary", "description": "the model file"},
                        "data": {"type": "string", "format": "binary", "description": "evaluation data (.npz)"},
                        "train": {"type": "string", "format": "binary", "description": "training data (.npz)"},
                    },
                }
            }
        },
    }
}


@router.post(
    "/models/{model}/versions/{version}",
    operation_id="push_version",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=_MULTIPART,
)
async def push_version(model: Name, version: Name, request: Request, ports: PortsOf) -> PushAccepted:
    """Push a version: its files are stored and a job looks into them; the same push again gives the same job."""
    async with receiving(request, ports, PUSH) as received:
        files = received.files
        upload = Upload(files["source"], files["data"], files.get("train"), received.parsed(PushForm))
        return await run_in_threadpool(
            accept_push, ports.catalogue, ports.objects, (model, version), upload, now=ports.clock()
        )


@router.get("/models", operation_id="list_models")
def list_models(ports: PortsOf, *, retired: bool = False) -> list[ModelVersion]:
    """The newest version of each model; `retired`: those that are out of use count, too."""
    return versions.list_models(ports.catalogue, retired=retired)


@router.get("/models/{model}/versions", operation_id="list_versions")
def list_versions(model: Name, ports: PortsOf, *, retired: bool = False) -> list[ModelVersion]:
    """All versions of a model, newest first; `retired`: with those that are out of use."""
    return versions.list_versions(ports.catalogue, model, retired=retired)


@router.get("/models/{model}/versions/{version}", operation_id="get_version")
def get_version(model: Name, version: Name, ports: PortsOf) -> ModelVersion:
    """One version."""
    return versions.get_version(ports.catalogue, model, version)


@router.get("/recipes", operation_id="get_recipes")
def get_recipes() -> RecipeBook:
    """The ready-made recipes, and the steps that one's own are made of."""
    return recipe_book.recipe_book()


@router.post(
    "/models/{model}/versions/{version}/variants", operation_id="build_variants", status_code=HTTPStatus.ACCEPTED
)
def build_variants(model: Name, version: Name, build: BuildRequest, ports: PortsOf) -> list[Job]:
    """Ask for variants, for the profiles named or for all; what is built already is built again only if asked for."""
    return versions.request_builds(ports.catalogue, model, version, build, now=ports.clock())


@router.get("/models/{model}/versions/{version}/variants", operation_id="list_variants")
def list_variants(
    model: Name, version: Name, ports: PortsOf, profile: Name | None = None, *, steps: bool = False
) -> list[Variant]:
    """What was built and measured, the chosen one of each profile first; `steps`: with what each step did."""
    return versions.list_variants(ports.catalogue, model, version, profile=profile, steps=steps)


@router.get("/models/{model}/versions/{version}/choices", operation_id="list_choices")
def list_choices(model: Name, version: Name, ports: PortsOf) -> list[Choice]:
    """What each profile gets, or why nothing."""
    return versions.list_choices(ports.catalogue, model, version)


@router.post(
    "/models/{model}/versions/{version}/searches", operation_id="start_search", status_code=HTTPStatus.ACCEPTED
)
def start_search(model: Name, version: Name, form: SearchForm, ports: PortsOf) -> Job:
    """Search for the recipe that suits a profile best, and build it; the same search again gives the same job."""
    return searches.request_search(
        ports.catalogue, model, version, form, job_timeout_s=ports.settings.job_timeout_s, now=ports.clock()
    )


@router.get("/searches/{job_id}", operation_id="get_search", tags=["jobs"])
def get_search(job_id: Name, ports: PortsOf) -> Search:
    """What a search has found, by the id of its job."""
    return searches.get_search(ports.catalogue, job_id)


@router.get("/jobs", operation_id="list_jobs", tags=["jobs"])
def list_jobs(
    ports: PortsOf,
    model: Name | None = None,
    version: Name | None = None,
    limit: Annotated[int, Query(ge=1, le=jobs.MAX_LISTED)] = 100,
) -> list[Job]:
    """The latest jobs, newest first."""
    return jobs.list_jobs(ports.catalogue, model=model, version=version, limit=limit)


@router.get("/jobs/{job_id}", operation_id="get_job", tags=["jobs"])
def get_job(job_id: Name, ports: PortsOf) -> Job:
    """One job."""
    return jobs.get_job(ports.catalogue, job_id)


@router.put("/jobs/{job_id}/cancellation", operation_id="cancel_job", tags=["jobs"])
def cancel_job(job_id: Name, cancellation: JobCancellation, ports: PortsOf) -> Job:
    """Have a job not done: one that waits is over at once, one that runs is stopped within seconds."""
    return jobs.cancel_job(ports.catalogue, job_id, cancellation.cancelled_by, now=ports.clock())
