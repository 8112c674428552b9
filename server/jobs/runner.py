"""One job from its claim to its end: fetch, run within limits, store, register. Puts the other modules together."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from compressors.contract import (
    BuildRequest,
    BuildResult,
    DeltaPair,
    DeltaRequest,
    DeltaResult,
    Inputs,
    InspectRequest,
    InspectResult,
    PackedPaths,
    ProgressLine,
    Recipe,
    ReportRequest,
    ReportResult,
    Task,
)
from compressors.search_contract import Latency, SearchBudget, SearchRequest, SearchResult
from edge_agent.protocol.manifest import VariantManifest
from edge_agent.protocol.profile import RuntimeName
from server.database.connect import Database
from server.errors import (
    DigestMismatchError,
    ObjectNotFoundError,
    RegistryError,
    StorageRefusedError,
    StorageUnavailableError,
)
from server.jobs import claims, deltas, reading, register
from server.jobs.claims import Claim
from server.jobs.errors import BadResultError, JobError
from server.jobs.lease import Lease
from server.jobs.output import output_file
from server.jobs.pages import zipped
from server.jobs.process import JobLimits, run_job
from server.jobs.workspace import workspace
from server.schemas.work import SEARCH_SHARE, BuildWork, DeltaWork, InspectWork, JobKind, ReportWork, SearchWork
from server.storage import ObjectStore

STORAGE_PATIENCE_S: Final = 60.0
DATABASE_PATIENCE_S: Final = 60.0
PAUSE_S: Final = 1.0

ResultT = TypeVar("ResultT", bound=BaseModel)
ReturnT = TypeVar("ReturnT")


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What every job of a worker shares."""

    data_dir: Path
    limits: JobLimits
    pythons: dict[str, Path]
    host_cpu_model: str | None = None
    """As the profile of this very machine would name its CPU: latency measured here proves something for that one."""
    program: tuple[str, ...] = (sys.executable, "-m", "compressors.job")
    """What runs a job; kind, request file and result file are added."""

    @property
    def work_dir(self) -> Path:
        """Folders of running jobs."""
        return self.data_dir / "work"

    @property
    def cache_dir(self) -> Path:
        """What builds remember of each other, by hash."""
        return self.data_dir / "cache"


class _Given(TypedDict):
    """What builds, searches and reports are given alike."""

    inputs: Inputs
    pythons: dict[RuntimeName, Path]
    output_dir: Path
    cache_dir: Path
    host_cpu_model: str | None


class JobRunner:
    """Does claimed jobs."""

    def __init__(
        self,
        catalogue: Database,
        telemetry: Database,
        store: ObjectStore,
        settings: JobSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalogue = catalogue
        self._telemetry = telemetry
        self._store = store
        self._settings = settings
        self._clock = clock

    def run(self, claim: Claim, lease: Lease) -> None:
        """Do a job and register what it made; a failure is written into the job.

        Raises:
            LeaseLostError: another worker has it; nothing was registered.
            JobCancelledError: somebody cancelled it; nothing was registered.
            StopRequestedError: the worker shall end; nothing was registered.
            DatabaseUnavailableError: it stayed away for so long that the job must be done again.
        """
        try:
            with workspace(self._settings.work_dir) as folder:
                do = {
                    JobKind.INSPECT: self._inspect,
                    JobKind.BUILD: self._build,
                    JobKind.SEARCH: self._search,
                    JobKind.REPORT: self._report,
                    JobKind.DELTA: self._delta,
                }
                do[claim.kind](claim, lease, folder)
        except JobError as exc:
            self._fail(claim, lease, exc.wire_code, str(exc))
        except (StorageUnavailableError, StorageRefusedError, ObjectNotFoundError, DigestMismatchError) as exc:
            self._fail(claim, lease, exc.code, f"{exc} Then push or build again.")
        except OSError as exc:
            self._fail(
                claim,
                lease,
                "worker_disk",
                f"The worker's disk failed the job: {exc.strerror}; make room and build again.",
            )

    def _inspect(self, claim: Claim, lease: Lease, folder: Path) -> None:
        work = _parse(InspectWork, claim.request)
        inputs = Inputs(
            model=claim.model,
            version=claim.version,
            model_path=self._fetch(lease, work.source.sha256, folder / "model"),
            data_path=self._fetch(lease, work.data.sha256, folder / "data.npz"),
            train_path=self._fetch(lease, work.train.sha256, folder / "train.npz") if work.train else None,
            task=Task(work.form.task),
            metric=work.form.metric,
            labels=work.form.labels,
        )
        result = self._run(claim, lease, folder, InspectRequest(inputs=inputs), InspectResult)
        now = self._clock()
        version = register.model_version_of(claim, work, result, now=now)
        self._patiently(lease, lambda: register.register_version(self._catalogue, claim, version, now=now))

    def _build(self, claim: Claim, lease: Lease, folder: Path) -> None:
        work = _parse(BuildWork, claim.request)
        given = self._given(claim, lease, folder)
        request = BuildRequest(
            profiles=reading.read_profiles(self._catalogue, work.profiles),
            recipes=(*work.recipes, *(Recipe.model_validate(one.model_dump()) for one in work.own_recipes)),
            device=work.device,
            measure_again=work.measure_again,
            device_figures=reading.read_figures(self._catalogue, self._telemetry, work.profiles),
            **given,
        )
        result = self._run(claim, lease, folder, request, BuildResult)
        self._register(claim, lease, result, work.profiles, given["output_dir"])

    def _search(self, claim: Claim, lease: Lease, folder: Path) -> None:
        work = _parse(SearchWork, claim.request)
        (profile,) = reading.read_profiles(self._catalogue, (work.profile,))
        if work.latency_p95_ms is not None:
            profile = reading.within(profile, work.latency_p95_ms)
        given = self._given(claim, lease, folder)
        most_s = SEARCH_SHARE * self._settings.limits.wall_s  # the rest is for the build of what was found
        request = SearchRequest(
            profile=profile,
            budget=SearchBudget(
                seconds=min(work.seconds or most_s, most_s), trials=work.trials, until_fits=work.until_fits
            ),
            seed=work.seed,
            device=work.device,
            device_figures=reading.read_figures(self._catalogue, self._telemetry, (work.profile,)),
            replay=None
            if work.replay is None
            else {digest: Latency.model_validate(row.model_dump()) for digest, row in work.replay.items()},
            **given,
        )
        result = self._run(claim, lease, folder, request, SearchResult)
        if result.build is None:
            raise BadResultError("The search built nothing of what it found: report this as a bug.")
        searched = register.Searched(result, for_a_lane=bool(work.rollout_id))
        self._register(claim, lease, result.build, (work.profile,), given["output_dir"], searched)

    def _report(self, claim: Claim, lease: Lease, folder: Path) -> None:
        work = _parse(ReportWork, claim.request)
        candidates = reading.read_candidates(self._catalogue, claim.model, claim.version, work.profile)
        variant = next((one for one in candidates if one.variant_id == work.variant_id), None)
        if variant is None or variant.manifest_sha256 is None or variant.object_sha256 is None:
            raise JobError(f"There is no file of {work.variant_id} any more: build {claim.model} again.")
        given = self._given(claim, lease, folder)
        request = ReportRequest(
            inputs=given["inputs"],
            variant=variant,
            others=tuple(one for one in candidates if one is not variant),
            manifest_path=self._fetch(lease, variant.manifest_sha256, folder / "manifest.json"),
            object_path=self._fetch(lease, variant.object_sha256, folder / "object"),
            shifted_path=self._fetch(lease, work.shifted.sha256, folder / "shifted.npz") if work.shifted else None,
            pythons=given["pythons"],
            output_dir=given["output_dir"],
            cache_dir=given["cache_dir"],
            host_cpu_model=given["host_cpu_model"],
            measure_again=work.measure_again,
        )
        result = self._run(claim, lease, folder, request, ReportResult)
        content = zipped(given["output_dir"], result.files)
        stored = self._with_storage(lease, lambda: self._store.put_bytes(content))
        report = register.report_of(claim, work, result, stored, now=self._clock())
        self._patiently(lease, lambda: register.register_report(self._catalogue, claim, report))

    def _delta(self, claim: Claim, lease: Lease, folder: Path) -> None:
        work = _parse(DeltaWork, claim.request)
        wanted = deltas.wanted_deltas(self._catalogue, claim.model, claim.version, work.profiles)
        output_dir = folder / "output"
        output_dir.mkdir()
        request = DeltaRequest(
            pairs=tuple(
                DeltaPair(
                    base=self._packed(lease, one.base_manifest_sha256, folder),
                    variant=self._packed(lease, one.manifest_sha256, folder),
                    memory_bytes=one.memory_bytes,
                )
                for one in wanted
            ),
            output_dir=output_dir,
        )
        result = self._run(claim, lease, folder, request, DeltaResult)
        if len(result.made) != len(wanted):
            raise BadResultError("The job's result does not tell of each delta: report this as a bug.")
        self._store_files(lease, [one.delta.object.sha256 for one in result.made if one.delta], output_dir)
        made = list(zip(wanted, result.made, strict=True))
        now = self._clock()
        self._patiently(lease, lambda: deltas.register_deltas(self._catalogue, claim, made, now=now))

    def _packed(self, lease: Lease, manifest_sha256: str, folder: Path) -> PackedPaths:
        manifest_path, object_path = folder / f"{manifest_sha256}.json", folder / f"{manifest_sha256}.object"
        if not object_path.exists():
            self._fetch(lease, manifest_sha256, manifest_path)
            manifest = VariantManifest.model_validate_json(manifest_path.read_bytes())
            self._fetch(lease, manifest.object.sha256, object_path)
        return PackedPaths(manifest_path=manifest_path, object_path=object_path)

    def _given(self, claim: Claim, lease: Lease, folder: Path) -> _Given:
        """What builds, searches and reports are given alike: files of the version, runtimes, what is known of them."""
        version = reading.read_version(self._catalogue, claim.model, claim.version)
        output_dir = folder / "output"
        output_dir.mkdir()
        self._settings.cache_dir.mkdir(parents=True, exist_ok=True)
        return {
            "inputs": Inputs(
                model=claim.model,
                version=claim.version,
                model_path=self._fetch(lease, version.source_sha256, folder / "model"),
                data_path=self._fetch(lease, version.eval_sha256, folder / "data.npz"),
                train_path=self._fetch(lease, version.train_sha256, folder / "train.npz")
                if version.train_sha256
                else None,
                task=Task(version.task),
                metric=version.metric,
                labels=version.labels,
            ),
            "pythons": {
                RuntimeName(name): path for name, path in self._settings.pythons.items() if name in set(RuntimeName)
            },
            "output_dir": output_dir,
            "cache_dir": self._settings.cache_dir,
            "host_cpu_model": self._settings.host_cpu_model,
        }

    def _register(
        self,
        claim: Claim,
        lease: Lease,
        result: BuildResult,
        profiles: Sequence[str],
        output_dir: Path,
        searched: register.Searched | None = None,
    ) -> None:
        _check_build(result, profiles)
        sizes = self._store_output(lease, result, output_dir)
        now = self._clock()
        self._patiently(
            lease,
            lambda: register.register_build(self._catalogue, claim, result, sizes, now=now, searched=searched),
        )

    def _fetch(self, lease: Lease, sha256: str, path: Path) -> Path:
        lease.report("fetching", 0, 0)
        self._with_storage(lease, lambda: self._store.get_to_file(sha256, path))
        return path

    def _run(
        self,
        claim: Claim,
        lease: Lease,
        folder: Path,
        request: InspectRequest | BuildRequest | SearchRequest | ReportRequest | DeltaRequest,
        kind: type[ResultT],
    ) -> ResultT:
        request_path, result_path = folder / "request.json", folder / "result.json"
        request_path.write_text(request.model_dump_json(), "utf-8")

        def on_progress(line: ProgressLine) -> None:
            lease.report(line.stage, line.done, line.of, [one.model_dump(mode="json") for one in line.front])

        content = run_job(
            [*self._settings.program, str(claim.kind), str(request_path), str(result_path)],
            folder=folder,
            result_path=result_path,
            limits=self._settings.limits,
            on_progress=on_progress,
            check=lease.check,
        )
        try:
            return kind.model_validate_json(content)
        except ValidationError as exc:
            raise BadResultError(
                f"The job's result does not fit ({exc.error_count()} errors): report this as a bug."
            ) from exc

    def _store_output(self, lease: Lease, result: BuildResult, output_dir: Path) -> register.StoredSizes:
        """Objects first, then their manifests: a manifest in the store never names an object that is not."""
        objects = {built.object_sha256 for built in result.variants if built.object_sha256}
        manifests = {built.manifest_sha256 for built in result.variants if built.manifest_sha256}
        wanted = [*sorted(objects), *sorted(manifests - objects)]
        return register.StoredSizes(self._store_files(lease, wanted, output_dir))

    def _store_files(self, lease: Lease, wanted: Sequence[str], output_dir: Path) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for number, sha256 in enumerate(wanted):
            lease.report("storing", number, len(wanted))
            path = output_file(output_dir, sha256)
            stored = self._with_storage(lease, partial(self._store.put_file, path))
            if stored.sha256 != sha256:
                raise BadResultError(f"The job left a file {sha256} that holds other bytes: report this as a bug.")
            sizes[sha256] = stored.size_bytes
        return sizes

    def _with_storage(self, lease: Lease, act: Callable[[], ReturnT]) -> ReturnT:
        """Wait for S3 to come back, for a while; the job stays ours meanwhile."""
        return _retry(lease, act, StorageUnavailableError, STORAGE_PATIENCE_S)

    def _patiently(self, lease: Lease, act: Callable[[], None]) -> None:
        """Wait for the database to come back, for a while."""
        _retry(lease, act, RegistryError, DATABASE_PATIENCE_S)

    def _fail(self, claim: Claim, lease: Lease, code: str, message: str) -> None:
        self._patiently(
            lease,
            lambda: claims.fail(self._catalogue, claim, code=code, message=message, now=self._clock()),
        )


def _retry(lease: Lease, act: Callable[[], ReturnT], error: type[RegistryError], patience_s: float) -> ReturnT:
    end_s = time.monotonic() + patience_s
    while True:
        lease.check()
        try:
            return act()
        except error as exc:
            if not exc.retryable or time.monotonic() > end_s:
                raise
        time.sleep(PAUSE_S)


def _parse(kind: type[ResultT], request: dict[str, object]) -> ResultT:
    try:
        return kind.model_validate_json(json.dumps(request))
    except ValidationError as exc:
        raise JobError("This job was asked for by another release of the registry; push or build again.") from exc


def _check_build(result: BuildResult, profiles: Sequence[str]) -> None:
    """Refuse a result that would leave the catalogue contradicting itself."""
    if sorted(choice.profile for choice in result.choices) != sorted(profiles):
        raise BadResultError("The job's result does not choose exactly once for each profile: report this as a bug.")
    packed = {(built.profile, built.variant_id) for built in result.variants if built.manifest_sha256}
    for choice in result.choices:
        if (choice.variant_id is None) == (choice.refusal is None):
            raise BadResultError("The job's result neither chooses nor refuses, or does both: report this as a bug.")
        if choice.variant_id is not None and (choice.profile, choice.variant_id) not in packed:
            raise BadResultError("The job's result chooses a variant that it did not pack: report this as a bug.")
