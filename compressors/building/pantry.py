"""What a kitchen keeps on disk between jobs: files, trained networks (as `.pt2`, without pickle), and their records.

A job that was killed, or a search that goes on, finds here what was done. A damaged or half-written entry counts as
absent.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from compressors.contract import Part, StepRecord
from compressors.errors import CompressorError
from compressors.inputs import program
from compressors.running import first_line
from compressors.step import Form, Model, ModelFile
from edge_agent.protocol.base import Sha256

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.step import AnyStep

log = logging.getLogger(__name__)


class Label(Part):
    """What stands beside a kept model."""

    sha256: Sha256
    record: StepRecord


class Pantry:
    """A folder of models by the key of their recipe; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        """The folder is made when something is kept."""
        self._folder = folder

    def take(self, key: str, step: AnyStep, before: Model) -> tuple[Model, StepRecord] | None:
        """What `step` made of `before` in an earlier job; None where that is not known."""
        if self._folder is None or not _is_kept(step):
            return None
        path, label_path = self._paths(self._folder, key)
        try:
            label = Label.model_validate_json(label_path.read_bytes())
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != label.sha256:
                return None
            if step.gives is not Form.NETWORK:
                return replace(before, file=ModelFile(step.gives, content)), label.record
            kept = program.load(path)
        except (OSError, ValueError, CompressorError):
            return None
        return Model(replace(before.network, module=kept.module, parameters=kept.parameters)), label.record

    def keep(self, key: str, step: AnyStep, made: Model, record: StepRecord) -> Model:
        """Keep what a step made.

        Returns:
            The model to go on with: for a network the one that was kept, read again, so that a job that goes on later
            does exactly what one that was never stopped does. The names of its layers are the same; what training
            alone sees, such as the rate of a dropout, is kept, too. Where the folder can't be written (a full disk), it
            is what was made: a job does not fail for what only later ones would gain.
        """
        if self._folder is None or not _is_kept(step):
            return made
        try:
            is_kept = self._write(self._folder, key, made, record)
        except OSError as exc:
            log.warning("a model is not kept for later jobs: %s", exc.strerror)
            return made
        taken = self.take(key, step, made) if is_kept else None
        return made if taken is None else taken[0]

    def _write(self, folder: Path, key: str, made: Model, record: StepRecord) -> bool:
        """Whether the model could be written; the label comes last: without it the model does not count."""
        folder.mkdir(parents=True, exist_ok=True)
        path, label_path = self._paths(folder, key)
        partial = path.with_suffix(f"{path.suffix}.partial")
        if made.file is not None:
            partial.write_bytes(made.file.content)
        elif not _save(made, partial):
            return False
        label = Label(sha256=hashlib.sha256(partial.read_bytes()).hexdigest(), record=record)
        partial.replace(path)
        partial = label_path.with_suffix(f"{label_path.suffix}.partial")
        partial.write_text(label.model_dump_json())
        partial.replace(label_path)
        return True

    def _paths(self, folder: Path, key: str) -> tuple[Path, Path]:
        return folder / f"{key}.model", folder / f"{key}.json"


def _is_kept(step: AnyStep) -> bool:
    """Files and trained networks; other networks are made again in less time than they are read."""
    return step.gives is not Form.NETWORK or step.trains


def _save(made: Model, path: Path) -> bool:
    """Whether a network could be written: some may hold what `torch.export` does not know."""
    try:
        with warnings.catch_warnings(action="ignore"):
            program.save(made.network, path)
    except Exception as exc:  # noqa: BLE001  torch.export raises whatever it hits
        log.warning("a trained network is not kept for later jobs: %s", first_line(exc))
        path.unlink(missing_ok=True)
        return False
    return True
