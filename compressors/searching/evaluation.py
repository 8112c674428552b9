"""One trial: a recipe is built, its file runs on the profile's runtime here, and its answers are scored.

What it is scored on are the rows of the selection split; it holds no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressors.bootstrap import evaluate, paired_loss
from compressors.building.kitchen import Kitchen
from compressors.building.prediction import Predictor, predictor_for
from compressors.errors import ModelRunError, SearchError
from compressors.files.formats import FORMATS, Target
from compressors.measuring.fidelity import loss_sources, noise_db
from compressors.measuring.kept import KeptMeasurements
from compressors.measuring.measure import Failure, Measurement, Rig
from compressors.measuring.scoring import score
from compressors.packing.golden import golden_file, sample_count
from compressors.packing.package import pack
from compressors.recipes import recipe_hash
from compressors.search_contract import Latency, TrialFigures
from compressors.step import Context
from compressors.training.device import device_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from compressors.contract import Recipe
    from compressors.files.formats import Form
    from compressors.measuring.measure import Run
    from compressors.search_contract import SearchRequest
    from compressors.searching.judging import Bar, Standing
    from compressors.searching.materials import Materials
    from compressors.step import ModelFile
    from edge_agent.protocol.profile import DeviceProfile, RuntimeName


def forms_of(profile: DeviceProfile, pythons: Mapping[RuntimeName, Path]) -> tuple[Form, ...]:
    """The files that a profile can run on its CPU and that can be measured here, those for its preferred runtime first.

    Raises:
        SearchError: none of its runtimes is installed here.
    """
    here = [runtime for runtime in profile.runtimes if runtime in pythons]
    if not here:
        raise SearchError(
            f"no runtime of {profile.name} is installed here ({', '.join(profile.runtimes)}), so that no latency can "
            "be measured: configure a Python that has one"
        )
    runs = {form: kind.ending.runtimes for form, kind in FORMATS.items() if not kind.npus}
    return tuple(dict.fromkeys(form for runtime in here for form, runtimes in runs.items() if runtime in runtimes))


def targets_of(form: Form, profile: DeviceProfile, pythons: Mapping[RuntimeName, Path]) -> tuple[Target, ...]:
    """What a profile would run such a file on first, and what where that does not load it: its preferred runtime."""
    kind = FORMATS[form]
    runtime = next(one for one in profile.runtimes if one in pythons and one in kind.ending.runtimes)
    return tuple(Target(runtime, delegate, profile.threads) for delegate in kind.delegates)


def context_of(request: SearchRequest, materials: Materials, bar: Bar) -> Context:
    """What steps may look at."""
    return Context(
        materials.calibration,
        materials.selection,
        task=request.inputs.task,
        metric=bar.metric,
        train=materials.train,
        teacher=materials.network,
        threads=request.threads,
        seed=request.seed,
        device=device_for(request.device),
        cache_dir=request.cache_dir,
    )


class Evaluation:
    """Evaluates recipes; see the module."""

    def __init__(
        self, request: SearchRequest, materials: Materials, bar: Bar, *, inputs_sha256: str, folder: Path
    ) -> None:
        """Nothing is built yet.

        Args:
            request: of the search.
            materials: the model and its rows.
            bar: what a file is held against.
            inputs_sha256: of the files that the request names.
            folder: for files between processes.
        """
        self._request, self._materials, self._bar = request, materials, bar
        self._inputs_sha256, self._folder = inputs_sha256, folder
        self._predictor = (
            predictor_for(
                request.profile,
                request.pythons,
                host_cpu_model=request.host_cpu_model,
                cache_dir=request.cache_dir,
                device_figures=request.device_figures,
            )
            if request.replay is None
            else Predictor()  # the table tells
        )
        self._rig = Rig(
            materials.selection.inputs,
            materials.network.signature,
            pythons=request.pythons,
            folder=folder,
            kept=KeptMeasurements(request.cache_dir),
            timed=request.replay is None,
        )

    def __call__(self, recipe: Recipe) -> tuple[TrialFigures, Standing]:
        """The figures of a recipe, and how they stand against the limits.

        Raises:
            SearchError: its latency is to come from a table that has none.
            CompressorError: the recipe can't be built, or its file does not run.
        """
        recorded = self._recorded(recipe)
        file = self._kitchen().cook(recipe)[0]
        target, run = self._run(file, recorded)
        figures = self._figures(file, run, recorded or self._latency(recipe, target, run))
        return figures, self._bar.standing(recipe.name, figures)

    def _recorded(self, recipe: Recipe) -> Latency | None:
        table = self._request.replay
        if table is None:
            return None
        if (found := table.get(recipe_hash(recipe))) is None:
            raise SearchError(
                f"the latency table has no row for the recipe {recipe.name}: replay a search with the files, the "
                "profile, the seed and at most the trials that it was recorded with"
            )
        return found

    def _kitchen(self) -> Kitchen:
        """A new one for each recipe: what it keeps in memory would grow with every trial; its cache on disk stays."""
        materials, metric = self._materials, self._bar.metric
        return Kitchen(
            materials.network,
            context_of(self._request, materials, self._bar),
            inputs_sha256=self._inputs_sha256,
            cache_dir=self._request.cache_dir,
            score=lambda model: score(model, materials.selection, metric),
        )

    def _run(self, file: ModelFile, recorded: Latency | None) -> tuple[Target, Run]:
        """On the first delegate that takes the file, or where the table says."""
        profile = self._request.profile
        targets = targets_of(file.form, profile, self._request.pythons)
        if recorded is not None:
            targets = (Target(recorded.runtime, recorded.delegate, profile.threads),)
        path = self._folder / f"trial.{FORMATS[file.form].ending}"
        path.write_bytes(file.content)
        said = ""
        for target in targets:
            run = self._rig.run(path, target)
            if not isinstance(run, Failure):
                return target, run
            said = run.error
        raise ModelRunError(f"its file does not run on {targets[0].runtime}: {said}")

    def _latency(self, recipe: Recipe, target: Target, run: Run) -> Latency:
        return Latency(
            runtime=target.runtime,
            delegate=target.delegate,
            p50_ms=run.result.p50_ms,
            p95_ms=run.result.p95_ms,
            p50_interval_ms=run.result.p50_interval_ms,
            ram_bytes=run.result.added_rss_bytes,
            host_cpu_model=self._request.host_cpu_model,
            predicted_p95_ms=self._predictor.p95_ms(target, recipe.steps[-1].step, run.result),
            expected_ms=self._predictor.expected_ms(target, recipe.steps[-1].step, run.result.p50_ms),
        )

    def _figures(self, file: ModelFile, run: Run, latency: Latency) -> TrialFigures:
        selection, signature = self._materials.selection, self._materials.network.signature
        samples = sample_count(signature, selection)
        first = {name: array[:samples] for name, array in run.outputs.items()}
        target = Target(latency.runtime, latency.delegate, self._request.profile.threads)
        measured = Measurement(target, result=run.result, golden_outputs=first)
        facts = FORMATS[file.form].read_facts(file.content)
        golden = golden_file(
            signature, selection, measured, [measured], samples=samples, quantized=facts.quantized_operators > 0
        )
        packed = pack(file.content, FORMATS[file.form].ending, golden)
        found = evaluate(
            self._bar.metric,
            run.outputs[signature.outputs[0].name],
            selection.target,
            group=selection.group,
            query=selection.query,
        )
        loss = paired_loss(self._bar.metric, self._bar.float_metric, found)
        return TrialFigures(
            latency=latency,
            raw_bytes=len(file.content),
            download_bytes=packed.descriptor.size_bytes,
            storage_bytes=sum(part.size_bytes for part in packed.files),
            macs=facts.macs,
            metric=found.figure,
            metric_drop=loss.value,
            metric_drop_interval=loss.interval,
            metric_sources=loss_sources(self._bar.float_metric, found),
            noise_db=noise_db(self._bar.float_metric, found),
        )
