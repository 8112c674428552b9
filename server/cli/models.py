"""`edge-registry model`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.protocol.refusal import shown
from server.cli.options import JsonOption, RegistryOption
from server.cli.output import (
    fail,
    say,
    show_documents,
    show_json,
    show_pairs,
    show_table,
    text_of_bytes,
    text_of_time,
    upload_bar,
)
from server.cli.session import connected
from server.cli.waiting import follow, show_choices

if TYPE_CHECKING:
    from server.client import RegistryClient
    from server.schemas.catalogue import Job, ModelVersion, PushAccepted, PushForm

AllOption = Annotated[bool, typer.Option("--all", help="With those that are retired.")]

app = typer.Typer(help="Models and their immutable versions.", no_args_is_help=True)


class TaskName(StrEnum):
    """As in the API; repeated here so that completion needs no documents."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    RANKING = "ranking"


@app.command()
def push(  # noqa: PLR0913, PLR0917  a flag for each field of a push
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The model: .pt2, .onnx, .keras, .h5, float .tflite, or a SavedModel as .zip or .tar."
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the model.")],
    version: Annotated[str, typer.Option("--version", help="Name of this version; versions never change.")],
    data: Annotated[Path, typer.Option("--data", help="Evaluation data (.npz).")],
    task: Annotated[TaskName, typer.Option("--task", help="What the model is for.")],
    metric: Annotated[
        str, typer.Option("--metric", help="top1, accuracy, auc, rmse, mae, r2, or hr@K with K 1, 5, 10, 20, 50.")
    ],
    train: Annotated[Path | None, typer.Option("--train", help="Training data (.npz), for steps that train.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Class names: one a line, or a JSON list.")] = None,
    mean: Annotated[str, typer.Option("--mean", help="Preprocessing: value(s) to subtract, comma-separated.")] = "",
    std: Annotated[str, typer.Option("--std", help="Preprocessing: value(s) to divide by, comma-separated.")] = "",
    layout: Annotated[str, typer.Option("--layout", help="Preprocessing: for example NCHW.")] = "",
    registry: RegistryOption = None,
    *,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until it is registered and built; without: only upload it.")
    ] = True,
    build: Annotated[bool, typer.Option("--build/--no-build", help="Then build for every profile.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Push a version: upload it, have it inspected, and have its variants built; ends when all of that is true."""
    model = f"{name}@{version}"
    form = _form(task, metric, _labels(labels), (mean, std, layout))
    with connected(registry) as client:
        with upload_bar(f"upload {model}") as told:
            pushed = client.push_model(
                file, name=name, version=version, data=data, form=form, train=train, progress=told
            )
        if not wait:
            _tell_upload(pushed, as_json=as_json)
            return
        jobs = [follow(client, pushed.job_id, f"inspect {model}", failed=f"{model} is not registered: ")]
        if not as_json:
            say(f"{model} is registered")
        unbuilt = f"{model} is registered, but its variants were not built: "
        builds = _start_builds(client, pushed, build=build)
        jobs += [follow(client, job.job_id, f"build {model}", failed=unbuilt) for job in builds]
        if as_json:
            show_json({**pushed.model_dump(mode="json"), "jobs": [job.model_dump(mode="json") for job in jobs]})
        elif len(jobs) > 1:
            show_choices(client, name, version)
            say(f"next: edge-registry rollout start {model} --to SELECTOR --watch")
        elif build:
            say("no profile is registered to build for: `edge-registry profile add`, then `variant build`")


@app.command("list")
def list_(registry: RegistryOption = None, *, all_: AllOption = False, as_json: JsonOption = False) -> None:
    """The newest version of each model."""
    with connected(registry) as client:
        found = client.list_models(retired=all_)
    _show(found, as_json=as_json)


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]")],
    registry: RegistryOption = None,
    *,
    all_: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """All versions of a model, or one in full."""
    name, at, version = model.partition("@")
    with connected(registry) as client:
        if not at:
            _show(client.list_versions(name, retired=all_), as_json=as_json)
            return
        found = client.get_version(name, version)
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    signature = [
        (kind, f"{spec.name} {spec.datatype} {list(spec.shape)}")
        for kind, specs in (("input", found.signature.inputs), ("output", found.signature.outputs))
        for spec in specs
    ]
    splits = found.splits
    show_pairs(
        [
            ("model", f"{found.model}@{found.version}"),
            ("task", f"{found.task}, metric {found.metric}"),
            *signature,
            ("labels", str(len(found.labels))),
            ("splits", f"calibration {splits.calibration}, selection {splits.selection}, test {splits.test} rows"),
            ("groups", str(splits.groups)),
            ("parameters", f"{found.parameters:,}"),
            ("source", f"{text_of_bytes(found.source_bytes)} sha256 {found.source_sha256}"),
            ("created", text_of_time(found.created_at)),
            *([("retired", text_of_time(found.retired_at))] if found.retired_at else []),
        ]
    )


@app.command()
def retire(
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION]", help="Without @: every version of it.")],
    registry: RegistryOption = None,
    *,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back into use, while its files are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take a version out of use: nothing new is built or rolled out of it, and its files are freed after a while."""
    name, at, version = model.partition("@")
    if not name or (at and not version):
        fail(f"{shown(model)} is neither MODEL nor MODEL@VERSION; write for example lite0@1.", exit_code=2)
    with connected(registry) as client:
        change = client.bring_model_back if undo else client.retire_model
        found = change(name, version or None)
    if as_json:
        show_documents(found)
        return
    for one in found:
        say(f"{one.model}@{one.version} is {'in use again' if undo else 'retired'}")


def _show(versions: "list[ModelVersion]", *, as_json: bool) -> None:
    if as_json:
        show_documents(versions)
        return
    retired = any(version.retired_at for version in versions)
    rows = [
        (
            version.model,
            version.version,
            version.task,
            version.metric,
            f"{version.parameters:,}",
            text_of_bytes(version.source_bytes),
            text_of_time(version.created_at),
            *([text_of_time(version.retired_at)] if retired else []),
        )
        for version in versions
    ]
    columns = (
        "model",
        "version",
        "task",
        "metric",
        "parameters",
        "source",
        "created",
        *(("retired",) if retired else ()),
    )
    show_table(columns, rows, empty="no models: `edge-registry model push FILE`")


def _tell_upload(pushed: "PushAccepted", *, as_json: bool) -> None:
    if as_json:
        show_json({**pushed.model_dump(mode="json"), "jobs": []})
        return
    say(f"{pushed.model}@{pushed.version} is uploaded, and registered once job {pushed.job_id} is done:")
    say(f"  edge-registry job show {pushed.job_id} --wait")


def _start_builds(client: "RegistryClient", pushed: "PushAccepted", *, build: bool) -> "list[Job]":
    if not build or not client.list_profiles():
        return []  # nothing to build for yet: a rollout asks for what is missing
    return client.build_variants(pushed.model, pushed.version)


def _form(task: TaskName, metric: str, labels: list[str], preprocessing: tuple[str, str, str]) -> "PushForm":
    from pydantic import ValidationError  # noqa: PLC0415  `--help` must not wait for these

    from server.schemas.catalogue import PushForm  # noqa: PLC0415
    from server.schemas.sentence import sentence  # noqa: PLC0415

    mean, std, layout = preprocessing
    document = {
        "task": task.value,
        "metric": metric,
        "labels": tuple(labels),
        "preprocessing": {"mean": _numbers("--mean", mean), "std": _numbers("--std", std), "layout": layout},
    }
    try:
        return PushForm.model_validate(document)
    except ValidationError as exc:
        fail(sentence(exc.errors(include_url=False)), exit_code=2)


def _numbers(flag: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        fail(f"{flag} is {shown(text)}: give numbers such as 0.485,0.456,0.406.", exit_code=2)


def _labels(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        text = path.read_text("utf-8")
    except OSError as exc:
        fail(f"The file {path} can't be read: {exc.strerror}.")
    except UnicodeDecodeError:
        fail(f"The file {path} is no UTF-8 text: give class names, one a line, or a JSON list.")
    if not text.lstrip().startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return [str(label) for label in json.loads(text)]
    except ValueError:
        fail(f"The file {path} begins like a JSON list and is none.")
