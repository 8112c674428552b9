"""The journal of a search, which survives a kill: one JSON line for each finished trial."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import ValidationError

from compressors.contract import Part, Trial
from compressors.errors import SearchError

if TYPE_CHECKING:
    from pathlib import Path


class Plan(Part):
    """What decides which recipes a search tries: with another one its journal is of no use."""

    inputs_sha256: str
    profile_sha256: str
    seed: int
    space_sha256: str
    replay_sha256: str = ""  # of the latency table; empty where latencies are measured


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
            self._write(b"".join(line + b"\n" for line in whole), mode="wb")

    def add(self, trial: Trial) -> None:
        """Keep a finished trial; afterwards it is on the disk."""
        self.trials.append(trial)
        self._write(trial.model_dump_json().encode() + b"\n", mode="ab")

    def _write(self, content: bytes, *, mode: str) -> None:
        with self._path.open(mode) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
