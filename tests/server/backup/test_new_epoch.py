from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from server.backup.new_epoch import NewEpoch
from server.database import tables
from server.rollouts.facts import Ask, LaneStanding
from server.rollouts.rows import lanes_of


def test_row_lane_that_waits_for_the_compressor_has_as_long_as_it_had() -> None:
    answered = Ask(
        number=1, job_id="a" * 32, variant_id="v1", wave=0, cause="c", until=500.0, rejected=1, outcome="found"
    )
    open_one = replace(answered, number=2, job_id="b" * 32, until=2000.0, outcome="")
    lanes = {
        "pi": LaneStanding(rejected=("v1",), asks=(answered, open_one)),
        "zero": LaneStanding(paused=True),
    }
    columns = {column.name: None for column in tables.rollout_states.columns}
    row: dict[str, Any] = {**columns, "rollout_id": "r", "state": "running", "settled_at": 900.0}
    row["lanes"] = {profile: asdict(lane) for profile, lane in lanes.items()}
    found = NewEpoch(epoch=2, gap_s=86_400.0, open_rollouts=frozenset({"r"})).row(tables.rollout_states, row)
    assert found["settled_at"] == 87_300.0
    moved = replace(lanes["pi"], asks=(answered, replace(open_one, until=88_400.0)))
    assert lanes_of(found["lanes"]) == {**lanes, "pi": moved}
    assert row["lanes"]["pi"]["asks"][1]["until"] == 2000.0, "the backup's row is left alone"
