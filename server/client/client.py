"""`RegistryClient`: a method for each route, documents in and out."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import TypeAdapter

from edge_agent.protocol.profile import DeviceProfile
from server.client.checking import checked
from server.client.devices import DeviceCalls
from server.client.errors import RegistryClientError
from server.client.export import export_module
from server.client.inquiries import InquiryCalls
from server.client.outages import through_outages
from server.client.pages import unpack_pages
from server.client.paths import version_path
from server.client.retirement import RetirementCalls
from server.client.rollouts import RolloutCalls
from server.client.transport import ANSWER_TIMEOUT_S, Transport, given, segment
from server.client.upload import open_parts
from server.schemas.catalogue import BuildRequest, Choice, Job, JobState, ModelVersion, PushAccepted, PushForm, Variant
from server.schemas.common import Health
from server.schemas.recipes import RecipeBook
from server.schemas.report import Report, ReportForm
from server.schemas.retention import SweepReport, SweepRequest
from server.schemas.search import Search, SearchForm
from server.schemas.telemetry import TelemetryRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from server.schemas.common import ComputeDevice
    from server.schemas.recipes import Recipe

POLL_S: Final = 0.3

# The registry hashes what it got and copies it to S3 before it answers, three files of up to 4 GiB at the most.
PUSH_ANSWER_S: Final = 1800.0
_HEALTH: Final = TypeAdapter(Health)
_PROFILE: Final = TypeAdapter(DeviceProfile)
_PROFILES: Final = TypeAdapter(list[DeviceProfile])
_PUSHED: Final = TypeAdapter(PushAccepted)
_VERSION: Final = TypeAdapter(ModelVersion)
_VERSIONS: Final = TypeAdapter(list[ModelVersion])
_VARIANTS: Final = TypeAdapter(list[Variant])
_CHOICES: Final = TypeAdapter(list[Choice])
_JOB: Final = TypeAdapter(Job)
_JOBS: Final = TypeAdapter(list[Job])
_RECIPES: Final = TypeAdapter(RecipeBook)
_SEARCH: Final = TypeAdapter(Search)
_REPORT: Final = TypeAdapter(Report)
_SWEEP: Final = TypeAdapter(SweepReport)
_TELEMETRY: Final = TypeAdapter(list[TelemetryRow])


class RegistryClient(DeviceCalls, RolloutCalls, InquiryCalls, RetirementCalls):
    """A registry at a URL. Every method raises RegistryClientError with the registry's own sentence."""

    def __init__(self, url: str, *, ca: Path | None = None, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """A client that has asked nothing yet.

        Args:
            url: where the registry is.
            ca: its root certificate (`trust/root.crt` of its data folder); None: the file that SHOAL_CA names, else
                the public authorities.
            timeout_s: for an answer.

        Raises:
            RegistryClientError: no address, or no certificate in that file.
        """
        self._transport = Transport(url, ca=ca, timeout_s=timeout_s)

    @property
    def url(self) -> str:
        """Where the registry is."""
        return self._transport.url

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def health(self) -> Health:
        """Whether the registry and what it stands on answer."""
        return self._transport.ask("GET", "/v1/health", answer=_HEALTH)

    # --- profiles
    def add_profile(self, profile: DeviceProfile | Mapping[str, Any]) -> DeviceProfile:
        """Register a profile; the same document again changes nothing."""
        document = profile.model_dump(mode="json") if isinstance(profile, DeviceProfile) else dict(profile)
        return self._transport.ask("POST", "/v1/profiles", json=document, answer=_PROFILE)

    def list_profiles(self) -> list[DeviceProfile]:
        """All profiles by name."""
        return self._transport.ask("GET", "/v1/profiles", answer=_PROFILES)

    def get_profile(self, name: str) -> DeviceProfile:
        """One profile."""
        return self._transport.ask("GET", f"/v1/profiles/{segment(name, 'the profile')}", answer=_PROFILE)

    # --- models
    def push_model(
        self,
        source: Path,
        *,
        name: str,
        version: str,
        data: Path,
        form: PushForm,
        train: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> PushAccepted:
        """Push a version from files; the version exists once the job of the answer is done.

        Args:
            source: the model: .pt2, .onnx, .keras, .h5, float .tflite, or a SavedModel as .zip or .tar.
            name: of the model.
            version: new, or one that was pushed with the very same files.
            data: evaluation data (.npz).
            form: task, metric, preprocessing, labels.
            train: training data (.npz).
            progress: called with (bytes sent, bytes in all).
        """
        paths = {"source": source, "data": data, **({"train": train} if train else {})}
        path, sent, total = version_path(name, version), 0, 1

        def told(now_sent: int, now_total: int) -> None:
            nonlocal sent, total
            sent, total = now_sent, now_total
            if progress is not None:
                progress(sent, total)

        with open_parts(paths, told) as files:
            try:
                return self._transport.ask(
                    "POST",
                    path,
                    data={"form": form.model_dump_json()},
                    files=files,
                    answer=_PUSHED,
                    patience_s=PUSH_ANSWER_S,
                )
            except RegistryClientError as exc:
                if exc.code != "timeout" or sent < total:
                    raise
                sentence = (
                    f"The registry at {self.url} has all of {name}@{version}, but has not answered for "
                    f"{PUSH_ANSWER_S:g} s: it may still register it. `edge-registry job list` shows it then, and "
                    "pushing the same files again does no harm."
                )
                raise RegistryClientError("timeout", sentence) from exc

    def push_module(
        self,
        module: Any,  # noqa: ANN401  an nn.Module; torch is imported only by the export
        example_inputs: tuple[Any, ...],
        *,
        name: str,
        version: str,
        data: Path,
        form: PushForm,
        train: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> PushAccepted:
        """Export an `nn.Module` here, with a free batch dimension, and push it."""
        with tempfile.TemporaryDirectory(prefix="shoal-export-") as folder:
            source = Path(folder) / "model.pt2"
            export_module(module, example_inputs, source)
            return self.push_model(
                source, name=name, version=version, data=data, form=form, train=train, progress=progress
            )

    def list_models(self, *, retired: bool = False) -> list[ModelVersion]:
        """The newest version of each model; `retired`: those that are out of use count, too."""
        parameters = given({"retired": "true" if retired else None})
        return self._transport.ask("GET", "/v1/models", params=parameters, answer=_VERSIONS)

    def list_versions(self, model: str, *, retired: bool = False) -> list[ModelVersion]:
        """All versions of a model, newest first; `retired`: with those that are out of use."""
        parameters = given({"retired": "true" if retired else None})
        path = f"/v1/models/{segment(model, 'the model')}/versions"
        return self._transport.ask("GET", path, params=parameters, answer=_VERSIONS)

    def get_version(self, model: str, version: str) -> ModelVersion:
        """One version."""
        return self._transport.ask("GET", version_path(model, version), answer=_VERSION)

    def build_variants(
        self,
        model: str,
        version: str,
        *,
        profiles: Iterable[str] = (),
        recipes: Iterable[str] = (),
        own_recipes: Iterable[Recipe] = (),
        device: ComputeDevice = "cpu",
        again: bool = False,
    ) -> list[Job]:
        """Ask for variants, for the profiles named or for all that are registered.

        Args:
            model: its name.
            version: of the model.
            profiles: none: all.
            recipes: names of ready-made ones; with `own_recipes` empty, too: the usual ones.
            own_recipes: of your own; `server.client.load_recipe` reads one from YAML.
            device: where recipes train; `auto`: on a GPU where jobs run on a machine with one.
            again: build even if the same work is done already, and measure again.
        """
        asked = {"profiles": tuple(profiles), "recipes": tuple(recipes), "own_recipes": tuple(own_recipes)}
        build = checked(BuildRequest, {**asked, "device": device, "again": again})
        path = f"{version_path(model, version)}/variants"
        return self._transport.ask("POST", path, json=build.model_dump(mode="json"), answer=_JOBS)

    def list_variants(
        self, model: str, version: str, *, profile: str | None = None, steps: bool = False
    ) -> list[Variant]:
        """What was built and measured; `steps`: with what each step of the recipe did, layer by layer."""
        parameters = given({"profile": profile, "steps": "true" if steps else None})
        return self._transport.ask(
            "GET", f"{version_path(model, version)}/variants", params=parameters, answer=_VARIANTS
        )

    def list_choices(self, model: str, version: str) -> list[Choice]:
        """What each profile gets, or why nothing."""
        return self._transport.ask("GET", f"{version_path(model, version)}/choices", answer=_CHOICES)

    def get_recipes(self) -> RecipeBook:
        """The ready-made recipes, and the steps that one's own are made of."""
        return self._transport.ask("GET", "/v1/recipes", answer=_RECIPES)

    # --- searches
    def start_search(self, model: str, version: str, form: SearchForm) -> Job:
        """Search for the recipe that suits a profile best, and have it built; wait for the job, then `get_search`."""
        path = f"{version_path(model, version)}/searches"
        return self._transport.ask("POST", path, json=form.model_dump(mode="json"), answer=_JOB)

    def get_search(self, job_id: str) -> Search:
        """What a search has found, once its job is done."""
        return self._transport.ask("GET", f"/v1/searches/{segment(job_id, 'the job')}", answer=_SEARCH)

    # --- reports
    def start_report(self, model: str, version: str, form: ReportForm, *, shifted: Path | None = None) -> Job:
        """Report on a variant; wait for the job, then `get_report` and `save_report`.

        Args:
            model: its name.
            version: of the model.
            form: which variant.
            shifted: rows from elsewhere (.npz), with the inputs and the target.
        """
        path = f"{version_path(model, version)}/reports"
        with open_parts({"shifted": shifted} if shifted else {}, None) as files:
            # a body without files would not be multipart: the form is sent as a part either way
            parts = {"form": (None, form.model_dump_json()), **files}
            return self._transport.ask("POST", path, files=parts, answer=_JOB, patience_s=PUSH_ANSWER_S)

    def get_report(self, job_id: str) -> Report:
        """What a report comes to, once its job is done."""
        return self._transport.ask("GET", f"/v1/reports/{segment(job_id, 'the job')}", answer=_REPORT)

    def save_report(self, job_id: str, folder: Path) -> Path:
        """Write the files of a report into a folder, which is made where it does not exist; the page to open."""
        content = self._transport.raw("GET", f"/v1/reports/{segment(job_id, 'the job')}/files")
        return unpack_pages(content, folder)

    # --- jobs
    def list_jobs(self, *, model: str | None = None, version: str | None = None, limit: int = 100) -> list[Job]:
        """The latest jobs, newest first."""
        parameters = given({"model": model, "version": version, "limit": limit})
        return self._transport.ask("GET", "/v1/jobs", params=parameters, answer=_JOBS)

    def get_job(self, job_id: str) -> Job:
        """One job."""
        return self._transport.ask("GET", f"/v1/jobs/{segment(job_id, 'the job')}", answer=_JOB)

    def wait_for_job(
        self, job_id: str, *, timeout_s: float | None = None, progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait until a job is done; a registry that goes away in between for less than `OUTAGE_S` is waited for.

        Raises:
            RegistryClientError: the job failed (its own code and sentence), or the time is over (`timeout`).
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        job = self.get_job(job_id)
        while True:
            if progress is not None:
                progress(job)
            if job.state is JobState.DONE:
                return job
            if job.state is JobState.FAILED:
                code, message = (job.error.code, job.error.message) if job.error else ("failed", "The job failed.")
                raise RegistryClientError(code, message)
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise RegistryClientError("timeout", f"Job {job_id} is still {job.state} after {timeout_s:g} s.")
            time.sleep(POLL_S)
            job = through_outages(lambda: self.get_job(job_id))

    # --- telemetry
    def get_telemetry(
        self,
        *,
        by: Iterable[str] = ("profile", "variant"),
        model: str | None = None,
        version: str | None = None,
        since: float | None = None,
    ) -> list[TelemetryRow]:
        """Merged telemetry, one row for each group."""
        parameters = given({"by": ",".join(by), "model": model, "version": version, "since": since})
        return self._transport.ask("GET", "/v1/telemetry", params=parameters, answer=_TELEMETRY)

    # --- retention
    def sweep(self, *, dry_run: bool = False) -> SweepReport:
        """What the registry keeps no longer; unless `dry_run`, its processes delete it within seconds."""
        body = SweepRequest(dry_run=dry_run).model_dump(mode="json")
        return self._transport.ask("POST", "/v1/sweeps", json=body, answer=_SWEEP)
