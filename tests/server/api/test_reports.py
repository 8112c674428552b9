"""Reports over HTTP: asked for once, refused in one sentence, fetched when they are there."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from server.database.tables import choices, jobs, variant_reports, variants
from server.storage import S3ObjectStore

Registry = Any
Profile = Callable[..., dict[str, Any]]
PATH = "/v1/models/net/versions/1/reports"


@pytest.fixture
def ask(http: httpx.Client) -> Callable[..., httpx.Response]:
    """A wish for a report."""

    def send(form: dict[str, Any], shifted: bytes | None = None) -> httpx.Response:
        files: dict[str, Any] = {"form": (None, json.dumps(form))}
        return http.post(PATH, files=files | ({"shifted": ("s.npz", shifted)} if shifted is not None else {}))

    return send


@pytest.fixture
def built(http: httpx.Client, registry: Registry, profile: Profile, add_version: Callable[..., None]) -> None:
    """What pi-x gets, one that did not run and one for an NPU; pi-y, that gets nothing; pi-z, not built for."""
    add_version()
    for name in ("pi-x", "pi-y", "pi-z"):
        http.post("/v1/profiles", json=profile(name=name))
    rows = (
        ("pi-x", "good", "fits", "xnnpack", "a" * 64),
        ("pi-x", "silent", "unmeasured", "none", None),
        ("pi-x", "compiled", "fits", "ethos-u", "b" * 64),
        ("pi-y", "large", "misses", "xnnpack", "c" * 64),
    )
    for of, name, verdict, delegate, sha256 in rows:
        names = {"model": "net", "version": "1", "profile": of, "variant_id": name, "recipe": "float32"}
        told = {"runtime": "litert", "delegate": delegate, "verdict": verdict, "chosen": name == "good"}
        shas = {"manifest_sha256": sha256, "object_sha256": sha256}
        document = {**names, **told, **shas, "reason": "it ends with signal 9" if name == "silent" else ""}
        row = {**names, **told, **shas, "document": document, "created_at": 1.0}
        with registry.catalogue.write() as connection:
            connection.execute(sa.insert(variants).values(row))
    refusal = {"limit": "ram_bytes", "allowed": 1, "nearest": 2, "sentence": "no variant fits pi-y"}
    choice = {"model": "net", "version": "1", "profile": "pi-y", "refusal": refusal, "created_at": 1.0}
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(choices).values(choice))


@pytest.mark.usefixtures("built")
def test_report_asked_for_twice_is_one_job_until_something_is_built_anew(
    ask: Callable[..., httpx.Response], registry: Registry, finish_job: Callable[..., None]
) -> None:
    first = ask({"profile": "pi-x"})
    assert (first.status_code, first.json()["kind"]) == (202, "report")
    finish_job(first.json()["job_id"])
    assert ask({"profile": "pi-x", "variant_id": "good"}).json()["job_id"] == first.json()["job_id"]
    again = ask({"profile": "pi-x", "again": True}).json()["job_id"]
    assert again != first.json()["job_id"]
    with registry.catalogue.write() as connection:
        connection.execute(sa.update(variants).where(variants.c.variant_id == "silent").values(created_at=2.0))
    assert ask({"profile": "pi-x"}).json()["job_id"] not in {first.json()["job_id"], again}


@pytest.mark.usefixtures("built")
def test_second_set_is_stored_and_named_by_the_job(
    ask: Callable[..., httpx.Response], registry: Registry, object_store: S3ObjectStore
) -> None:
    held = io.BytesIO()
    np.savez(held, x=np.zeros((9, 2)), target=np.zeros(9))
    other = ask({"profile": "pi-x"}).json()["job_id"]
    asked = ask({"profile": "pi-x"}, held.getvalue()).json()["job_id"]
    assert asked != other
    with registry.catalogue.read() as connection:
        request = connection.execute(sa.select(jobs.c.request).where(jobs.c.job_id == asked)).scalar_one()
    assert object_store.get_bytes(request["shifted"]["sha256"]) == held.getvalue()


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"profile": "pi-w"}, 404, "There is no profile pi-w: registered are pi-x, pi-y, pi-z."),
        ({"profile": "pi-z"}, 409, "Nothing was built of net@1 for pi-z yet: `edge-registry variant build net@1"),
        ({"profile": "pi-y"}, 409, "pi-y gets no variant of net@1 (no variant fits pi-y): name one with --variant."),
        ({"profile": "pi-x", "variant_id": "ghost"}, 404, "There is no variant ghost of net@1 for pi-x"),
        ({"profile": "pi-x", "variant_id": "silent"}, 409, "did not run here, so there is nothing to report: it ends"),
        ({"profile": "pi-x", "variant_id": "compiled"}, 409, "report on one for the CPU, for example --variant good."),
        ({"profile": "pi-x", "variant": "good"}, 422, "variant is unknown"),
        ({}, 422, "profile is missing"),
    ],
)
def test_report_that_cannot_be_is_one_sentence(
    ask: Callable[..., httpx.Response], http: httpx.Client, form: dict[str, Any], status: int, words: str
) -> None:
    answer = ask(form)
    message = answer.json()["error"]["message"]
    assert (answer.status_code, words in message, "\n" in message) == (status, True, False), message
    assert http.get("/v1/jobs").json() == []


@pytest.mark.usefixtures("built")
def test_report_on_what_runs_on_an_npu_alone_names_no_other_where_there_is_none(
    ask: Callable[..., httpx.Response], registry: Registry
) -> None:
    with registry.catalogue.write() as connection:
        of_npu = sa.update(variants).where(variants.c.variant_id == "large")
        document: dict[str, object] = {"model": "net", "version": "1", "variant_id": "large", "recipe": "float32"}
        document |= {"profile": "pi-y", "runtime": "litert", "delegate": "ethos-u", "verdict": "fits", "chosen": False}
        document |= {"manifest_sha256": "c" * 64, "object_sha256": "c" * 64}
        connection.execute(of_npu.values(delegate="ethos-u", document=document))
    answer = ask({"profile": "pi-y", "variant_id": "large"})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 409
    assert message.startswith("Variant large runs on an NPU alone, and the registry has none to try it on: nothing of")


@pytest.mark.usefixtures("built")
def test_second_set_that_is_no_npz_is_refused_before_it_is_stored(
    ask: Callable[..., httpx.Response], object_store: S3ObjectStore
) -> None:
    ruined = b"PK\x03\x04 ruined, and like nothing else"
    answer = ask({"profile": "pi-x"}, ruined)
    assert answer.status_code == 422
    assert "The shifted file is a zip archive that is truncated or damaged" in answer.json()["error"]["message"]
    assert not object_store.exists(hashlib.sha256(ruined).hexdigest())


@pytest.mark.usefixtures("built")
def test_report_is_fetched_as_one_archive_once_it_is_there(
    ask: Callable[..., httpx.Response],
    http: httpx.Client,
    registry: Registry,
    object_store: S3ObjectStore,
    finish_job: Callable[..., None],
) -> None:
    job_id = ask({"profile": "pi-x"}).json()["job_id"]
    answer = http.get(f"/v1/reports/{job_id}")
    assert (answer.status_code, "is queued" in answer.json()["error"]["message"]) == (409, True)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("report.html", "<h1>good</h1>")
    stored = object_store.put_bytes(held.getvalue())
    key = {"model": "net", "version": "1", "profile": "pi-x", "variant_id": "good", "created_at": 3.0}
    said = {"label": "faster", "sentence": "0.5 of the float model's latency", "loses_points": False}
    archived = {"archive_sha256": stored.sha256, "archive_bytes": stored.size_bytes, "files": ["report.html"]}
    row = {**key, "shifted_sha256": "", "archive_sha256": stored.sha256, "document": {**key, **said, **archived}}
    with registry.catalogue.write() as connection:
        connection.execute(sa.insert(variant_reports).values(row))
    finish_job(job_id)
    assert http.get(f"/v1/reports/{job_id}").json()["label"] == "faster"
    files = http.get(f"/v1/reports/{job_id}/files")
    assert (files.headers["content-type"], files.content) == ("application/zip", held.getvalue())


@pytest.mark.usefixtures("built")
def test_job_that_is_no_report_has_none(http: httpx.Client) -> None:
    (build,) = http.post("/v1/models/net/versions/1/variants", json={}).json()
    answer = http.get(f"/v1/reports/{build['job_id']}")
    assert (answer.status_code, "is no report" in answer.json()["error"]["message"]) == (404, True)
