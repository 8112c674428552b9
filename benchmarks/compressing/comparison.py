"""One model, everybody's compressed files of it, and what is measured of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from benchmarks.compressing.judgement import Entrant
from benchmarks.peers.environment import REPOSITORY
from compressors import search
from compressors.bootstrap import evaluate
from compressors.building.kitchen import Kitchen
from compressors.data import evaluation_rows
from compressors.data.training_rows import load as load_training
from compressors.files.formats import FORMATS, Form
from compressors.inputs import loading
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Failure, Rig
from compressors.measuring.scoring import score
from compressors.metrics import metric_for
from compressors.packing.package import encode
from compressors.recipes import RECIPES
from compressors.search_contract import SearchBudget, SearchRequest
from compressors.searching.evaluation import targets_of
from compressors.step import Context
from edge_agent.protocol.profile import RuntimeName

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.contract import Inputs, StepSpec
    from compressors.data.evaluation_rows import Split
    from compressors.search_contract import SearchResult
    from edge_agent.protocol.profile import DeviceProfile

TURNS = 5
TIMED_ROWS = 16
SHOAL, FLOAT = "Shoal", "float"
PYTHONS = {name: Path(sys.executable) for name in (RuntimeName.LITERT, RuntimeName.ONNX, RuntimeName.EXECUTORCH)}
FLOATS = {Form.LITERT: "float32", Form.ONNX: "onnx-float32"}  # recipes of the files that peers begin with


class Peer(NamedTuple):
    """Somebody else's compressor: the script that runs it, and what it makes."""

    name: str
    module: str
    form: Form


PEERS = (
    Peer("litert-quantizer", "litert_quantizer_recipes", Form.LITERT),
    Peer("ONNX Runtime", "onnxruntime_static", Form.ONNX),
    Peer("NNCF", "nncf_executorch", Form.EXECUTORCH),
)
NNCF = PEERS[-1]
NNCF_WANTS = ("nncf==3.4.0", *(f"{name}=={version(name).split('+')[0]}" for name in ("executorch", "torch")))


@dataclass
class Contender:
    """A file, and what is measured of it."""

    side: str
    recipe: str
    form: Form
    path: Path | None = None  # None: it was refused
    refusal: str = ""
    steps: str = ""  # of a recipe that the search has found
    metric: float = 0.0
    low: float = 0.0  # of the metric's 95 % interval
    high: float = 0.0
    delegate: str = ""
    p50_ms: list[float] = field(default_factory=list)
    raw_bytes: int = 0
    wire_bytes: int = 0

    @property
    def median_ms(self) -> float:
        """Of the turns."""
        return float(np.median(self.p50_ms)) if self.p50_ms else 0.0

    @property
    def name(self) -> str:
        """Who made it, and how."""
        return f"{self.side} {self.recipe}"

    def entrant(self) -> Entrant:
        """For the judge."""
        return Entrant(self.name, self.metric, self.low, self.high, tuple(self.p50_ms), self.wire_bytes)


def spelt(spec: StepSpec) -> str:
    """A step with its parameters."""
    told = ", ".join(f"{name}={value}" for name, value in spec.parameters.items())
    return f"{spec.step}({told})" if told else spec.step


class Comparison:
    """One model, everybody's files of it, and their figures."""

    def __init__(self, inputs: Inputs, profile: DeviceProfile, folder: Path, cache: Path) -> None:
        """Load the model and its rows; `folder` is for files, `cache` for what the search keeps."""
        self._inputs, self._profile, self._folder, self._cache = inputs, profile, folder, cache
        self._network = loading.load(inputs.model_path)
        self._rows = evaluation_rows.load(inputs.data_path, self._network.signature, inputs.task, labels=inputs.labels)
        outputs = self._network.run(self._rows.selection.inputs)[self._network.signature.outputs[0].name]
        self._metric = metric_for(inputs.metric, inputs.task).for_model(outputs)
        self._kitchen = self._make_kitchen()
        self.contenders: list[Contender] = []
        self.found: SearchResult | None = None

    def _make_kitchen(self) -> Kitchen:
        rows, inputs = self._rows, self._inputs
        train = None
        if inputs.train_path is not None:
            train = load_training(inputs.train_path, self._network.signature, inputs.task, rows).split
        context = Context(
            rows.calibration,
            rows.selection,
            inputs.task,
            self._metric,
            train=train,
            teacher=self._network,
            cache_dir=self._cache,
        )
        return Kitchen(
            self._network,
            context,
            inputs_sha256=loading.sha256_of(inputs),
            cache_dir=self._cache,
            score=lambda model: score(model, rows.selection, self._metric),
        )

    def add_float(self) -> None:
        """The float file, for whoever reads the table."""
        self.contenders.append(Contender(FLOAT, "LiteRT", Form.LITERT, self._float_file(Form.LITERT)))

    def search(self, seconds: float, say: Callable[[str], None]) -> None:
        """Let Shoal search, and cook its front once more, from what the search has kept."""
        request = SearchRequest(
            inputs=self._inputs,
            profile=self._profile,
            budget=SearchBudget(seconds=seconds),
            pythons=PYTHONS,
            cache_dir=self._cache,
            host_cpu_model=self._profile.cpu.model,
        )
        self.found = search(
            request, lambda line: say(f"{line.done} of {line.of} s, {len(line.front)} on the front: {line.stage}")
        )
        for number in self.found.front:
            recipe = self.found.trials[number].recipe
            file = self._kitchen.cook(recipe)[0]
            path = self._folder / f"shoal-{number}.{FORMATS[file.form].ending}"
            path.write_bytes(file.content)
            steps = " > ".join(spelt(spec) for spec in recipe.steps)
            self.contenders.append(Contender(SHOAL, f"{number} {recipe.name}", file.form, path, steps=steps))

    def peer(self, peer: Peer, python: Path) -> None:
        """Let a peer make its files, in a process of its own."""
        folder = self._folder / peer.module
        folder.mkdir()
        calibration = folder / "calibration.npz"
        np.savez(calibration, allow_pickle=False, **self._rows.calibration.inputs)
        files = (self._float_file(peer.form), calibration, folder)
        command = [str(python), "-m", f"benchmarks.peers.{peer.module}", *map(str, files)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{peer.name} failed: {done.stderr[-600:]}")
        for recipe, made in json.loads((folder / "made.json").read_text()).items():
            if refusal := made.get("refusal", ""):
                self.contenders.append(Contender(peer.name, recipe, peer.form, refusal=refusal))
                continue
            path = (folder / recipe).rename(folder / f"{recipe}.{FORMATS[peer.form].ending}")
            self.contenders.append(Contender(peer.name, recipe, peer.form, path))

    def _float_file(self, form: Form) -> Path:
        """What a user of the peer would begin with: the network in its format, with a batch of one."""
        if form is Form.EXECUTORCH:
            path = self._folder / "float.pt2"
            exported = torch.export.export(self._network.module.eval(), self._network.examples(), strict=False)
            torch.export.save(exported, path)
            return path
        path = self._folder / f"float.{FORMATS[form].ending}"
        path.write_bytes(self._kitchen.cook(RECIPES[FLOATS[form]])[0].content)
        return path

    def measure(self, say: Callable[[str], None]) -> None:
        """The metric of each file on all test rows, then its latency in turns with the others'."""
        test = self._rows.test
        scoring = self._rig("scoring", test.inputs, timed=False)
        timing = self._rig("timing", {name: array[:TIMED_ROWS] for name, array in test.inputs.items()}, timed=True)
        for one in self._running():
            self._score(one, scoring, test)
        for turn in range(TURNS):
            say(f"turn {turn + 1} of {TURNS}")
            for one in self._running():
                self._time(one, timing)

    def _running(self) -> list[Contender]:
        return [one for one in self.contenders if not one.refusal]

    def _rig(self, name: str, rows: dict[str, np.ndarray[Any, Any]], *, timed: bool) -> Rig:
        folder = self._folder / name
        folder.mkdir()
        kept = KeptMeasurements(None)  # each turn is measured anew
        return Rig(rows, self._network.signature, pythons=PYTHONS, folder=folder, kept=kept, timed=timed)

    def _score(self, one: Contender, rig: Rig, test: Split) -> None:
        assert one.path is not None, "what runs has a file"
        for target in targets_of(one.form, self._profile, PYTHONS):
            run = rig.run(one.path, target)
            if isinstance(run, Failure):
                one.refusal = run.error
                continue
            outputs = run.outputs[self._network.signature.outputs[0].name]
            found = evaluate(self._metric, outputs, test.target, group=test.group, query=test.query).figure
            content = one.path.read_bytes()
            one.refusal, one.delegate, one.metric = "", target.delegate, found.value
            one.low, one.high = (found.value if end is None else end for end in (found.low, found.high))
            one.raw_bytes, one.wire_bytes = len(content), len(encode(content)[0])
            return

    def _time(self, one: Contender, rig: Rig) -> None:
        assert one.path is not None, "what runs has a file"
        target = next(t for t in targets_of(one.form, self._profile, PYTHONS) if t.delegate == one.delegate)
        run = rig.run(one.path, target)
        if isinstance(run, Failure):
            raise SystemExit(f"{one.name} ran once and then no more: {run.error}")
        one.p50_ms.append(run.result.p50_ms)
