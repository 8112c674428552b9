from typing import Any, Protocol

import pytest
import sqlalchemy as sa

from server.database.connect import Database
from server.jobs import claims
from server.jobs.claims import Claim
from server.jobs.errors import LeaseLostError


class Catalogue(Protocol):
    database: Database

    def add_job(self, kind: str, request: dict[str, Any], *, created_at: float = ..., version: str = ...) -> str: ...
    def run(self, job_id: str) -> sa.RowMapping: ...


def take(catalogue: Catalogue, worker: str = "w", *, now: float = 100.0) -> Claim | None:
    return claims.claim(catalogue.database, worker=worker, now=now, lease_s=30.0)


def test_claim_two_workers_never_get_the_same_job(catalogue: Catalogue) -> None:
    job_id = catalogue.add_job("inspect", {})
    first = take(catalogue, "w1")
    assert first is not None
    assert (first.job_id, first.attempt) == (job_id, 1)
    assert take(catalogue, "w2") is None


def test_claim_inspections_come_first_then_the_oldest(catalogue: Catalogue) -> None:
    build = catalogue.add_job("build", {}, created_at=1.0, version="a")
    late = catalogue.add_job("inspect", {}, created_at=3.0, version="b")
    early = catalogue.add_job("inspect", {}, created_at=2.0, version="c")
    assert [claim and claim.job_id for claim in (take(catalogue) for _ in range(4))] == [early, late, build, None]


def test_claim_a_search_of_minutes_comes_after_every_build(catalogue: Catalogue) -> None:
    search = catalogue.add_job("search", {}, created_at=1.0, version="a")
    build = catalogue.add_job("build", {}, created_at=2.0, version="b")
    assert [claim and claim.job_id for claim in (take(catalogue) for _ in range(3))] == [build, search, None]


def test_claim_a_build_waits_for_the_inspection_of_its_version(catalogue: Catalogue) -> None:
    catalogue.add_job("inspect", {})
    build = catalogue.add_job("build", {}, created_at=0.5)
    inspection = take(catalogue)
    assert inspection is not None
    assert take(catalogue) is None
    claims.fail(catalogue.database, inspection, code="x", message="y", now=101.0)
    following = take(catalogue)
    assert following is not None
    assert following.job_id == build


def test_claim_a_dead_workers_job_is_taken_again_and_failed_after_the_third(catalogue: Catalogue) -> None:
    job_id = catalogue.add_job("inspect", {})
    attempts = [take(catalogue, f"w{n}", now=100.0 + 31 * n) for n in range(4)]
    assert [claim and claim.attempt for claim in attempts] == [1, 2, 3, None]
    run = catalogue.run(job_id)
    assert (run["state"], run["error"]["code"]) == ("failed", "worker_lost")


def test_renew_after_the_job_went_to_another_worker_is_refused(catalogue: Catalogue) -> None:
    job_id = catalogue.add_job("inspect", {})
    slow = take(catalogue, "slow")
    assert slow is not None
    claims.renew(catalogue.database, slow, until=200.0, progress={"stage": "s", "done": 1, "of": 2})
    assert catalogue.run(job_id)["progress"]["stage"] == "s"
    quick = take(catalogue, "quick", now=201.0)
    assert quick is not None
    with pytest.raises(LeaseLostError):
        claims.renew(catalogue.database, slow, until=300.0, progress=None)
    with pytest.raises(LeaseLostError):
        claims.fail(catalogue.database, slow, code="x", message="y", now=1.0)
    with pytest.raises(LeaseLostError), catalogue.database.write() as connection:
        claims.finish(connection, slow, result={}, now=1.0)
    assert catalogue.run(job_id)["worker"] == "quick"


def test_give_back_costs_no_attempt(catalogue: Catalogue) -> None:
    job_id = catalogue.add_job("inspect", {})
    for _ in range(5):
        claim = take(catalogue)
        assert claim is not None
        assert claim.attempt == 1
        claims.give_back(catalogue.database, claim)
        assert catalogue.run(job_id)["state"] == "queued"


def test_claim_of_a_delta_waits_for_the_builds_of_its_version(catalogue: Catalogue) -> None:
    build = catalogue.add_job("build", {})
    delta = catalogue.add_job("delta", {}, created_at=0.5)
    first = claims.claim(catalogue.database, worker="w", now=1.0, lease_s=10.0)
    assert first is not None
    assert first.job_id == build
    assert claims.claim(catalogue.database, worker="w", now=1.0, lease_s=10.0) is None
    claims.fail(catalogue.database, first, code="x", message="x", now=2.0)
    second = claims.claim(catalogue.database, worker="w", now=3.0, lease_s=10.0)
    assert second is not None
    assert second.job_id == delta
