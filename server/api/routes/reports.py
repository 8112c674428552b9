"""Reports on variants."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from edge_agent.protocol.base import Name
from server.api.ports import PortsOf
from server.api.upload import REPORT, receiving
from server.catalogue import reports
from server.schemas.catalogue import Job
from server.schemas.report import Report, ReportForm

ZIP: Final = "application/zip"

router = APIRouter(prefix="/v1", tags=["models"])

_MULTIPART: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["form"],
                    "properties": {
                        "form": ReportForm.model_json_schema(ref_template="#/components/schemas/{model}"),
                        "shifted": {
                            "type": "string",
                            "format": "binary",
                            "description": "rows from elsewhere (.npz), with the inputs and the target",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "/models/{model}/versions/{version}/reports",
    operation_id="start_report",
    status_code=HTTPStatus.ACCEPTED,
    openapi_extra=_MULTIPART,
)
async def start_report(model: Name, version: Name, request: Request, ports: PortsOf) -> Job:
    """Report on a variant; the same wish gives the same job until something is built anew for the profile."""
    async with receiving(request, ports, REPORT) as received:
        return await run_in_threadpool(
            reports.request_report,
            ports.catalogue,
            ports.objects,
            (model, version),
            received.parsed(ReportForm),
            received.files.get("shifted"),
            now=ports.clock(),
        )


@router.get("/reports/{job_id}", operation_id="get_report")
def get_report(job_id: Name, ports: PortsOf) -> Report:
    """What a report comes to, by the id of its job."""
    return reports.get_report(ports.catalogue, job_id)


@router.get(
    "/reports/{job_id}/files",
    operation_id="get_report_files",
    response_class=Response,
    responses={200: {"content": {ZIP: {}}, "description": "the pages, the pictures and the JSON, as one archive"}},
)
def get_report_files(job_id: Name, ports: PortsOf) -> Response:
    """The files of a report, as one zip archive."""
    found = reports.get_report(ports.catalogue, job_id)
    return Response(ports.objects.get_bytes(found.archive_sha256), media_type=ZIP)
