"""Which searches are the same one: its journal must be found again by the next process, and by no other search."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from compressors.errors import SearchError
from compressors.search_contract import SearchRequest
from compressors.searching.trials import alone, plan_of
from tests.compressors.conftest import REPOSITORY, board

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.searching.trials import Plan

FEATURES = ["fp16", "dotprod", "i8mm", "bf16", "lse", "sve"]
PRINT_PLAN = """
import sys
from compressors.search_contract import SearchRequest
from compressors.searching.trials import plan_of
request = SearchRequest.model_validate_json(sys.argv[1])
print(plan_of(request, inputs_sha256="1", space_sha256="2").model_dump_json())
"""


def request(**changes: object) -> SearchRequest:
    profile = board("far")
    profile["cpu"]["features"] = FEATURES
    inputs = {
        "model": "net",
        "version": "1",
        "model_path": "net.pt2",
        "data_path": "eval.npz",
        "task": "regression",
        "metric": "r2",
    }
    given = {"inputs": inputs, "profile": profile, "budget": {"trials": 3}, "pythons": {"litert": "/python"}}
    return SearchRequest.model_validate({**given, "host_cpu_model": "here", **changes})


def plan(**changes: object) -> Plan:
    return plan_of(request(**changes), inputs_sha256="1", space_sha256="2")


def test_plan_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-c", PRINT_PLAN, request().model_dump_json()]
    told = {
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert told == {f"{plan().model_dump_json()}\n"}


def test_larger_budget_is_the_same_search_and_another_seed_is_not() -> None:
    assert plan(budget={"seconds": 900.0}) == plan()
    assert plan(cache_dir="/elsewhere", output_dir="/out") == plan()
    others = [plan(seed=1), plan(replay={}), plan(host_cpu_model="x"), plan(profile=board("near")), plan(device="cuda")]
    assert len({one.model_dump_json() for one in [plan(), *others]}) == 6


def test_same_search_in_two_processes_at_once_is_refused(tmp_path: Path) -> None:
    with alone(tmp_path, plan()):
        with pytest.raises(SearchError, match="the same search is running at the moment"), alone(tmp_path, plan()):
            pass
        with alone(tmp_path, plan(seed=1)) as other:
            assert not other.exists()
    with alone(tmp_path, plan()) as path:
        assert path.parent == tmp_path


def test_plan_knows_what_devices_measured_but_not_the_noise_of_telemetry() -> None:
    def with_p95(p95_ms: float, profile: str = "far", **changes: object) -> Plan:
        host = {
            "cpu_model": "here",
            "runtime": "litert",
            "delegate": "xnnpack",
            "last_step": "static-int8",
            "p50_ms": 1.0,
        }
        figure = {"profile": profile, "variant_id": "v", "p95_ms": p95_ms, "host": host}
        return plan(device_figures=[figure], **changes)

    assert with_p95(4.0) != plan()
    assert with_p95(4.0) != with_p95(8.0)
    assert with_p95(4.0) == with_p95(4.01)
    assert with_p95(4.0, profile="other") == plan()
    assert with_p95(4.0, host_cpu_model="elsewhere") == plan(host_cpu_model="elsewhere")


def test_plan_of_a_replay_does_not_ask_devices() -> None:
    host = {"cpu_model": "here", "runtime": "litert", "delegate": "xnnpack", "last_step": "static-int8", "p50_ms": 1.0}
    figure = {"profile": "far", "variant_id": "v", "p95_ms": 4.0, "host": host}
    assert plan(replay={}, device_figures=[figure]) == plan(replay={})
