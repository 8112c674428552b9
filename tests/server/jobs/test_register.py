"""What a build leaves in the catalogue, beside what earlier ones left."""

from typing import Any, Protocol

import sqlalchemy as sa

from compressors.contract import BuildResult
from server.database import tables
from server.database.connect import Database
from server.jobs import claims
from server.jobs.register import StoredSizes, register_build


class Catalogue(Protocol):
    database: Database

    def add_job(self, kind: str, request: dict[str, Any]) -> str: ...
    def rows(self, table: sa.Table) -> list[sa.RowMapping]: ...


def register(catalogue: Catalogue, *ranked: str) -> None:
    """A build for pi-4 that gives these variants their ranks."""
    catalogue.add_job("build", {})
    claim = claims.claim(catalogue.database, worker="w", now=100.0, lease_s=30.0)
    assert claim is not None
    kind = {"profile": "pi-4", "recipe": "float32", "runtime": "litert", "delegate": "none", "verdict": "fits"}
    result = BuildResult.model_validate(
        {
            "float_metric": {"value": 0.9},
            "variants": [
                {**kind, "variant_id": name, "chosen": rank == 0, "rank": rank} for rank, name in enumerate(ranked)
            ],
            "choices": [{"profile": "pi-4", "variant_id": ranked[0]}],
        }
    )
    register_build(catalogue.database, claim, result, StoredSizes({}), now=101.0)


def test_register_variants_of_an_earlier_build_lose_their_ranks(catalogue: Catalogue) -> None:
    register(catalogue, "first", "second", "third")
    register(catalogue, "third", "new")
    found = {row["variant_id"]: row for row in catalogue.rows(tables.variants)}
    ranks = {name: row["document"]["rank"] for name, row in found.items()}
    assert ranks == {"first": None, "second": None, "third": 0, "new": 1}
    assert [name for name, row in found.items() if row["chosen"]] == ["third"]
    assert [name for name, row in found.items() if row["document"]["chosen"]] == ["third"]
