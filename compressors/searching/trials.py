"""The journal of a search, which survives a kill: one JSON line for each finished trial."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import ValidationError

from compressors.building.device_ratios import device_ratios
from compressors.contract import Part
from compressors.errors import SearchError
from compressors.search_contract import Trial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from compressors.search_contract import SearchRequest


RATIO_STEP = 1.1  # telemetry that moves a ratio by less leaves a search the same one, so that it goes on after a kill


class Plan(Part):
    """What decides which recipes a search tries: with another one its journal is of no use."""

    inputs_sha256: str
    profile_sha256: str
    seed: int
    space_sha256: str
    replay_sha256: str = ""  # of the latency table; empty where latencies are measured


def plan_of(request: SearchRequest, *, inputs_sha256: str, space_sha256: str) -> Plan:
    """The plan of a search; its budget is not part of it, so that a search goes on with a larger one.

    Args:
        request: of the search.
        inputs_sha256: of the files that it names.
        space_sha256: of what it may suggest.
    """
    profile = request.profile.model_dump(mode="json")
    profile["cpu"]["features"].sort()  # a set: each process would write it in another order
    here = request.model_dump(mode="json", include={"pythons", "host_cpu_model", "device"})
    figures = () if request.replay is not None else request.device_figures  # a table tells its own predictions
    ratios = sorted(
        [*kind, *(round(math.log(one) / math.log(RATIO_STEP)) for one in (ratio.value, ratio.low, ratio.high))]
        for kind, ratio in device_ratios(figures, profile["name"], host_cpu_model=request.host_cpu_model).items()
    )
    table = request.model_dump(mode="json", include={"replay"})["replay"]
    return Plan(
        inputs_sha256=inputs_sha256,
        profile_sha256=_sha256_of([profile, here, request.inputs.metric, request.inputs.task, ratios]),
        seed=request.seed,
        space_sha256=space_sha256,
        replay_sha256="" if table is None else _sha256_of(table),
    )


def _sha256_of(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@contextmanager
def alone(folder: Path, plan: Plan) -> Iterator[Path]:
    """Where the journal of a search lies, while no other process has it.

    Raises:
        SearchError: another process does the same search at the moment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = _sha256_of(plan.model_dump(mode="json"))
    with (folder / f"{name}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SearchError(
                "the same search is running at the moment: wait until it has ended, or give this one another seed"
            ) from exc
        yield folder / f"{name}.jsonl"


class Journal:
    """The finished trials of one search, in a file."""

    def __init__(self, path: Path, plan: Plan) -> None:
        """Take up what is there.

        Raises:
            SearchError: the file is another search's.
        """
        self._path = path
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        whole = lines[:-1]  # the last one is empty, or was cut by a kill
        self.trials: list[Trial] = []
        if not whole:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(plan.model_dump_json().encode() + b"\n", mode="wb")
            return
        try:
            found = Plan.model_validate_json(whole[0])
            self.trials = [Trial.model_validate_json(line) for line in whole[1:]]
        except ValidationError as exc:
            raise SearchError(f"{path} is no journal of a search, or a damaged one: delete it to begin anew") from exc
        if found != plan:
            raise SearchError(
                f"{path} belongs to another search (other inputs, profile, seed or steps): name another file, or "
                "delete it"
            )
        if lines[-1]:
            os.truncate(path, path.stat().st_size - len(lines[-1]))

    def add(self, trial: Trial) -> None:
        """Keep a finished trial; afterwards it is on the disk."""
        self.trials.append(trial)
        self._write(trial.model_dump_json().encode() + b"\n", mode="ab")

    def _write(self, content: bytes, *, mode: str) -> None:
        with self._path.open(mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
