from typing import Any, Protocol

import pytest
import sqlalchemy as sa

from server.catalogue.jobs import WantedJob, cancel_job, enqueue
from server.database.connect import Database
from server.errors import ConflictError, NotFoundError
from server.jobs import claims
from server.jobs.claims import Claim
from server.jobs.errors import JobCancelledError, LeaseLostError
from server.schemas.catalogue import Job, JobState
from server.schemas.work import JobKind


class Catalogue(Protocol):
    database: Database

    def add_job(self, kind: str, request: dict[str, Any], *, created_at: float = ..., version: str = ...) -> str: ...
    def run(self, job_id: str) -> sa.RowMapping: ...
    def cancel(self, job_id: str) -> Job: ...
    def job(self, job_id: str) -> Job: ...


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


def test_cancel_a_job_that_waits_is_over_at_once_and_never_claimed(catalogue: Catalogue) -> None:
    job_id = catalogue.add_job("build", {})
    cancelled = catalogue.cancel(job_id)
    assert (cancelled.state, cancelled.stopping, cancelled.finished_at) == (JobState.CANCELLED, False, 50.0)
    assert cancelled.error is not None
    assert cancelled.error.message == (
        "This job was cancelled by anna@desk before it began; ask for the build again to have it."
    )
    assert take(catalogue) is None


def test_cancel_twice_changes_nothing_and_of_what_is_done_is_refused(catalogue: Catalogue) -> None:
    waiting = catalogue.add_job("build", {})
    first = catalogue.cancel(waiting)
    assert cancel_job(catalogue.database, waiting, "bert@desk", now=60.0) == first
    with pytest.raises(NotFoundError, match="There is no job nothing"):
        catalogue.cancel("nothing")
    for version, state in (("2", "done"), ("3", "failed")):
        job_id = catalogue.add_job("inspect", {}, version=version)
        claim = take(catalogue)
        assert claim is not None
        if state == "done":
            with catalogue.database.write() as connection:
                claims.finish(connection, claim, result={}, now=101.0)
        else:
            claims.fail(catalogue.database, claim, code="x", message="y", now=101.0)
        with pytest.raises(ConflictError, match=f"Job {job_id} (is done|has failed): there is nothing left"):
            catalogue.cancel(job_id)
        assert catalogue.job(job_id).state == state


def test_cancel_of_a_running_job_lasts_until_its_worker_stops_it_and_it_cannot_finish(catalogue: Catalogue) -> None:
    job_id = catalogue.add_job("search", {})
    claim = take(catalogue)
    assert claim is not None
    assert not claims.is_unwanted(catalogue.database, claim)
    told = catalogue.cancel(job_id)
    assert (told.state, told.stopping, told.error) == (JobState.RUNNING, True, None)
    assert claims.is_unwanted(catalogue.database, claim)
    with pytest.raises(JobCancelledError), catalogue.database.write() as connection:
        claims.finish(connection, claim, result={}, now=101.0)
    claims.end_cancelled(catalogue.database, claim, now=102.0)
    ended = catalogue.job(job_id)
    assert (ended.state, ended.stopping, ended.finished_at) == (JobState.CANCELLED, False, 102.0)
    assert ended.error is not None
    assert "by anna@desk while it was being done; the same search asked for again goes on" in ended.error.message
    assert take(catalogue, now=1000.0) is None


def test_cancel_of_a_job_whose_worker_died_is_settled_by_the_next_worker_and_not_tried_again(
    catalogue: Catalogue,
) -> None:
    job_id = catalogue.add_job("inspect", {})
    assert take(catalogue, "dead", now=100.0) is not None
    assert catalogue.cancel(job_id).stopping
    assert take(catalogue, "next", now=110.0) is None
    assert catalogue.job(job_id).state is JobState.RUNNING, "its lease has not ended: its worker may live"
    assert take(catalogue, "next", now=131.0) is None
    assert (catalogue.job(job_id).state, catalogue.run(job_id)["worker"]) == (JobState.CANCELLED, "dead")
    assert catalogue.run(job_id)["attempt"] == 1


def test_cancel_of_a_job_that_was_given_back_is_over_at_once(catalogue: Catalogue) -> None:
    job_id = catalogue.add_job("inspect", {})
    claim = take(catalogue)
    assert claim is not None
    claims.give_back(catalogue.database, claim)
    assert catalogue.cancel(job_id).state is JobState.CANCELLED
    assert take(catalogue) is None


def test_claim_does_not_wait_for_cancelled_jobs_but_for_one_of_a_kind_that_is_being_stopped(
    catalogue: Catalogue,
) -> None:
    inspection = catalogue.add_job("inspect", {})
    search = catalogue.add_job("search", {})
    catalogue.cancel(inspection)
    running = take(catalogue, "w1")
    assert running is not None
    assert running.job_id == search
    catalogue.cancel(search)
    again = catalogue.add_job("search", {}, created_at=2.0)
    delta = catalogue.add_job("delta", {}, created_at=3.0)
    assert take(catalogue, "w2") is None
    claims.end_cancelled(catalogue.database, running, now=101.0)
    following = take(catalogue, "w2")
    assert following is not None
    assert following.job_id == again
    assert take(catalogue, "w3") is None, "the delta waits for the search"
    catalogue.cancel(again)
    claims.end_cancelled(catalogue.database, following, now=102.0)
    last = take(catalogue, "w2")
    assert last is not None
    assert last.job_id == delta


def test_enqueue_after_a_cancellation_is_a_new_job(catalogue: Catalogue) -> None:
    wanted = WantedJob(JobKind.BUILD, "net", "1", identity={}, request={})

    def ask() -> str:
        with catalogue.database.write() as connection:
            return enqueue(connection, wanted, now=1.0).job.job_id

    first = ask()
    assert ask() == first
    catalogue.cancel(first)
    second = ask()
    assert second != first
    assert take(catalogue) is not None
    catalogue.cancel(second)
    assert catalogue.job(second).stopping
    third = ask()
    assert third not in {first, second}, "what is being stopped answers no new wish"
    assert ask() == third
