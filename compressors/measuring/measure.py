"""Measure a file on every runtime that profiles name, each in a process of its own, with the code that runs on devices.

A runtime that can't load the file is a finding, not the end of the job: the same int8 file may load with XNNPACK and
fail without it.
"""

from __future__ import annotations

import logging
import subprocess
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressors.bootstrap import evaluate
from compressors.metrics import agreement
from edge_agent.runtimes.measure import MeasureRequest, MeasureResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from compressors.bootstrap import Estimate
    from compressors.contract import Figure, Task
    from compressors.data.evaluation_rows import EvaluationData, Split
    from compressors.files.formats import Target
    from compressors.measuring.kept import KeptMeasurements
    from compressors.metrics import Metric
    from edge_agent.protocol.profile import RuntimeName
    from edge_agent.protocol.signature import ModelSignature

log = logging.getLogger(__name__)

TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Scores:
    """How right a model is: on selection for judging, on test for the report."""

    selection: Estimate
    test: Estimate
    test_outputs: NDArray[np.generic]


@dataclass(frozen=True)
class Measurement:
    """A file on a target; `error` says why there are no figures."""

    target: Target
    error: str | None = None
    result: MeasureResult | None = None
    scores: Scores | None = None
    agreement: Figure | None = None
    golden_outputs: dict[str, NDArray[np.generic]] | None = None


@dataclass(frozen=True)
class Run:
    """A file that ran on a target: its figures, and its outputs for all rows, by name."""

    result: MeasureResult
    outputs: dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Failure:
    """Why a file did not run, or answers no numbers."""

    error: str
    result: MeasureResult | None = None


class Rig:
    """Runs files on targets with the same rows; it knows no answers, so it can tell nobody how right a file is."""

    def __init__(
        self,
        rows: Mapping[str, NDArray[np.generic]],
        signature: ModelSignature,
        *,
        pythons: Mapping[RuntimeName, Path],
        folder: Path,
        kept: KeptMeasurements,
        timed: bool = True,
    ) -> None:
        """Nothing is run yet.

        Args:
            rows: inputs by name.
            signature: of the model.
            pythons: the Python executable that has each runtime.
            folder: for files between processes.
            kept: measurements of earlier jobs, and of this one.
            timed: without, a file runs once for its outputs, its latency means nothing, and it is not kept.
        """
        self._signature, self._pythons, self._folder, self._timed = signature, pythons, folder, timed
        self._kept = kept
        self._rows = folder / "inputs.npz"
        np.savez(self._rows, allow_pickle=False, **rows)

    def run(self, file: Path, target: Target) -> Run | Failure:
        """Run one file on one target."""
        python = self._pythons.get(target.runtime)
        if python is None:
            return Failure(f"no Python with the runtime {target.runtime} is configured")
        outputs_path = self._folder / f"{file.stem}-{target.runtime}-{target.delegate}-{target.threads}.npz"
        request = MeasureRequest(
            model_path=file,
            runtime=target.runtime,
            delegate=target.delegate,
            threads=target.threads,
            signature=self._signature,
            data_path=self._rows,
            outputs_path=outputs_path,
            **({} if self._timed else {"runs": 1}),
        )
        key = self._kept.key(request, python)
        result = self._kept.read(key, outputs_path)
        outputs = None if result is None else self._read(outputs_path)
        if result is None or outputs is None:
            measured = _measure(python, request, self._folder / "measure")
            if isinstance(measured, str):
                return Failure(measured)
            if measured.error is not None:
                return Failure(measured.error)
            result, outputs = measured, self._read(outputs_path)
            self._keep(key, result, outputs_path)
            if outputs is None:
                return Failure(f"{target.runtime} ({target.delegate}) left no outputs that can be read")
        outputs_path.unlink()
        broken = next((name for name, values in outputs.items() if not np.isfinite(values).all()), None)
        if broken is not None:
            return Failure(f"its output {broken} is not finite on this runtime", result)
        return Run(result, outputs)

    def _read(self, path: Path) -> dict[str, NDArray[np.generic]] | None:
        """The outputs by name; None: the file is damaged, as a full disk or a power cut leaves what was kept."""
        try:
            # numpy leaves a damaged file open that it has opened itself
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {spec.name: archive[spec.name] for spec in self._signature.outputs}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def _keep(self, key: str, result: MeasureResult, outputs_path: Path) -> None:
        if not self._timed:
            return
        try:
            self._kept.write(key, result, outputs_path)
        except OSError as exc:
            log.warning("a measurement is not kept for later jobs: %s", exc.strerror)


def rows_of(data: EvaluationData) -> dict[str, NDArray[np.generic]]:
    """What a bench runs a file on: the inputs of selection and test, one after the other."""
    return {name: np.concatenate([array, data.test.inputs[name]]) for name, array in data.selection.inputs.items()}


class Bench:
    """Runs files on targets with one data set, and scores them."""

    def __init__(
        self,
        data: EvaluationData,
        signature: ModelSignature,
        *,
        task: Task,
        metric: Metric,
        pythons: Mapping[RuntimeName, Path],
        folder: Path,
        golden_samples: int,
        kept: KeptMeasurements,
    ) -> None:
        self._data, self._signature, self._task, self._metric = data, signature, task, metric
        self._golden_samples = golden_samples
        self._rig = Rig(rows_of(data), signature, pythons=pythons, folder=folder, kept=kept)

    def score(self, outputs: NDArray[np.generic]) -> Scores:
        """Score the outputs of selection and test rows, one after the other, as `run` sees them."""
        rows = self._data.selection.rows
        return Scores(
            selection=self._evaluate(outputs[:rows], self._data.selection),
            test=self._evaluate(outputs[rows:], self._data.test),
            test_outputs=outputs[rows:],
        )

    def _evaluate(self, outputs: NDArray[np.generic], split: Split) -> Estimate:
        return evaluate(self._metric, outputs, split.target, group=split.group, query=split.query)

    def run(self, file: Path, target: Target, float_scores: Scores) -> Measurement:
        """Measure one file on one target."""
        ran = self._rig.run(file, target)
        if isinstance(ran, Failure):
            return Measurement(target, error=ran.error, result=ran.result)
        scores = self.score(ran.outputs[self._signature.outputs[0].name])
        return Measurement(
            target,
            result=ran.result,
            scores=scores,
            agreement=agreement(self._task, scores.test_outputs, float_scores.test_outputs, self._metric.scale),
            golden_outputs={name: array[: self._golden_samples] for name, array in ran.outputs.items()},
        )


def _measure(python: Path, request: MeasureRequest, prefix: Path) -> MeasureResult | str:
    """Run the measuring process; its result, or one sentence why there is none."""
    asked, told = prefix.with_suffix(".request.json"), prefix.with_suffix(".result.json")
    asked.write_text(request.model_dump_json())
    told.unlink(missing_ok=True)
    try:
        ended = subprocess.run(  # noqa: S603  the Python comes from the registry's own settings
            [str(python), "-m", "edge_agent.runtimes.measure", str(asked), str(told)],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{request.runtime} ({request.delegate}) did not finish within {TIMEOUT_S:.0f} s"
    except OSError as exc:
        return f"{python} can't be started: {exc.strerror}"
    if ended.returncode != 0 or not told.exists():
        how = f"by signal {-ended.returncode}" if ended.returncode < 0 else f"with {ended.returncode}"
        last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return f"{request.runtime} ({request.delegate}) ended {how}: {last[0][:200]}"
    return MeasureResult.model_validate_json(told.read_bytes())
