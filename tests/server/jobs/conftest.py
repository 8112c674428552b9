"""A catalogue with jobs in it, and programs that behave as jobs do, well and badly."""

import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.catalogue.jobs import cancel_job, get_job
from server.database import tables
from server.database.connect import Database
from server.schemas.catalogue import Job


@dataclass
class Catalogue:
    """The database of a registry."""

    folder: Path
    database: Database

    def add_job(
        self,
        kind: str,
        request: dict[str, Any],
        *,
        created_at: float = 1.0,
        model: str = "net",
        version: str = "1",
    ) -> str:
        job_id = uuid.uuid4().hex
        row = {
            "job_id": job_id,
            "kind": kind,
            "dedupe_key": uuid.uuid4().hex * 2,
            "model": model,
            "version": version,
            "request": request,
            "created_at": created_at,
        }
        self.insert(tables.jobs, row)
        return job_id

    def insert(self, table: sa.Table, row: dict[str, Any]) -> None:
        with self.database.write() as connection:
            connection.execute(table.insert(), row)

    def rows(self, table: sa.Table) -> list[sa.RowMapping]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(table)).mappings())

    def cancel(self, job_id: str) -> Job:
        return cancel_job(self.database, job_id, "anna@desk", now=50.0)

    def job(self, job_id: str) -> Job:
        return get_job(self.database, job_id)

    def run(self, job_id: str) -> sa.RowMapping:
        return next(row for row in self.rows(tables.job_runs) if row["job_id"] == job_id)


@pytest.fixture
def catalogue(tmp_path: Path, new_database: Callable[[str], Database]) -> Catalogue:
    database = new_database("registry")
    tables.catalogue.create_all(database.engine)
    return Catalogue(tmp_path, database)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """A program from Python source; it finds kind, request file and result file in `sys.argv[1:]`."""

    def make(source: str) -> tuple[str, ...]:
        path = tmp_path / f"{uuid.uuid4().hex}.py"
        path.write_text(source, "utf-8")
        return sys.executable, str(path)

    return make
