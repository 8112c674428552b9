"""Searches over HTTP: asked for once, refused in one sentence, read when they are done."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from server.database.tables import jobs

Registry = Any
Profile = Callable[..., dict[str, Any]]
PATH = "/v1/models/net/versions/1/searches"


@pytest.fixture
def ready(http: httpx.Client, profile: Profile, add_version: Callable[..., None]) -> None:
    """A version and a profile."""
    add_version()
    http.post("/v1/profiles", json=profile())


@pytest.mark.usefixtures("ready")
def test_search_asked_for_twice_is_one_job_and_again_another_once_it_is_done(
    http: httpx.Client, registry: Registry, finish_job: Callable[..., None]
) -> None:
    form = {"profile": "pi-x", "seconds": 600, "seed": 3}
    first, second = http.post(PATH, json=form), http.post(PATH, json=form)
    assert first.status_code == 202
    assert first.json() == second.json()
    assert (first.json()["kind"], first.json()["progress"]["front"]) == ("search", [])
    with registry.catalogue.read() as connection:
        request = connection.execute(sa.select(jobs.c.request)).scalar_one()
    assert (request["profile"], request["seconds"], request["seed"], request["replay"]) == ("pi-x", 600.0, 3, None)
    other = http.post(PATH, json={**form, "seed": 4}).json()["job_id"]
    assert other != first.json()["job_id"]
    finish_job(other)
    assert http.post(PATH, json={**form, "seed": 4}).json()["job_id"] == other
    assert http.post(PATH, json={**form, "seed": 4, "again": True}).json()["job_id"] != other


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"profile": "pi-z", "trials": 3}, 404, "There is no profile pi-z: registered are pi-x."),
        ({"profile": "pi-x"}, 422, "a search needs an end"),
        ({"profile": "pi-x", "trials": 0}, 422, "trials is 0"),
        ({"profile": "pi-x", "seconds": -1}, 422, "seconds is -1"),
        ({"profile": "pi-x", "seconds": 3000}, 422, "A search may take 2880 s here, and 3000 s are asked for"),
        ({"profile": "pi-x", "trials": 3, "seed": -1}, 422, "seed is -1"),
        ({"profile": "pi-x", "trials": 3, "speed": 1}, 422, "speed is unknown"),
        ({"profile": "pi-x", "trials": 3, "replay": {"abc": {}}}, 422, "replay"),
    ],
)
def test_search_that_cannot_be_is_one_sentence(
    http: httpx.Client, form: dict[str, Any], status: int, words: str
) -> None:
    answer = http.post(PATH, json=form)
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert words in message
    assert "\n" not in message
    assert http.get("/v1/jobs").json() == []


def test_search_of_a_version_nobody_pushed_says_so(http: httpx.Client, profile: Profile) -> None:
    http.post("/v1/profiles", json=profile())
    answer = http.post(PATH, json={"profile": "pi-x", "trials": 3})
    assert answer.status_code == 404
    assert "There is no model net" in answer.json()["error"]["message"]


@pytest.mark.usefixtures("ready")
def test_search_that_is_not_done_and_job_that_is_no_search_have_nothing_to_show(http: httpx.Client) -> None:
    search = http.post(PATH, json={"profile": "pi-x", "trials": 3}).json()["job_id"]
    answer = http.get(f"/v1/searches/{search}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert "is queued" in answer.json()["error"]["message"]
    (build,) = http.post("/v1/models/net/versions/1/variants", json={}).json()
    answer = http.get(f"/v1/searches/{build['job_id']}")
    assert answer.status_code == 404
    assert "is no search" in answer.json()["error"]["message"]
    assert http.get("/v1/searches/nothing").status_code == 404
