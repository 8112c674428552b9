"""`edge-registry rollout`."""

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.cli.options import JsonOption, ModelArgument, RegistryOption, split_version
from server.cli.output import fail, live, make_table, say, show_documents, show_json, show_table, text_of_time
from server.cli.session import connected

if TYPE_CHECKING:
    from server.client import RegistryClient
    from server.schemas.rollouts import Rollout, RolloutRequest

app = typer.Typer(help="Deliver a version to devices, wave by wave.", no_args_is_help=True)

POLL_S: Final = 1.0
GOOD_END: Final = "finished"
ENDS: Final = frozenset({GOOD_END, "stopped", "aborted", "rolled_back"})
_COLUMNS: Final = ("wave", "devices", "waiting", "in progress", "running", "failed", "timed out", "no variant", "left")

RolloutArgument = Annotated[str, typer.Argument(metavar="ROLLOUT")]
WatchOption = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Follow it to its end; exit code 1 unless it finishes, 1 too if a lane stopped or no device that has a "
        "variant runs it.",
    ),
]


@app.command()
def start(  # noqa: PLR0913  a flag for each field of a plan
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help="Selector, for example site=berlin; empty: every device.")] = "",
    waves: Annotated[str, typer.Option("--waves", help="Shares or counts of devices, growing.")] = "100%",
    max_failures: Annotated[
        int, typer.Option("--max-failures", min=0, help="Devices of a lane that may fail in one wave.")
    ] = 0,
    probe_inferences: Annotated[
        int, typer.Option("--probe-inferences", min=0, help="What a device must have answered to count.")
    ] = 0,
    silence_s: Annotated[
        float, typer.Option("--silence-deadline-s", min=1.0, help="Silent for so long: timed out.")
    ] = 600.0,
    seed: Annotated[int, typer.Option("--seed", help="Decides which devices come first.")] = 0,
    registry: RegistryOption = None,
    *,
    progress_s: Annotated[
        float, typer.Option("--progress-deadline-s", min=1.0, help="Heard, but no further for so long: stuck.")
    ] = 3600.0,
    retry_s: Annotated[
        float, typer.Option("--retry-patience-s", min=0.0, help="Its transfers fail for so long: failed.")
    ] = 300.0,
    min_inferences: Annotated[
        int, typer.Option("--min-inferences", min=0, help="What measures a device; 0: measurements stop nothing.")
    ] = 200,
    max_error_rate: Annotated[
        float, typer.Option("--max-error-rate", help="Share of a lane's inferences that may fail.")
    ] = 0.02,
    max_error_rise: Annotated[
        float, typer.Option("--max-error-rise", help="How far it may be above that of the version before.")
    ] = 0.002,
    max_slowdown: Annotated[
        float, typer.Option("--max-slowdown", help="Share by which p95 may be longer than before.")
    ] = 0.1,
    gate_s: Annotated[
        float, typer.Option("--gate-deadline-s", min=0.0, help="The next wave waits so long for measurements.")
    ] = 600.0,
    quorum: Annotated[
        float, typer.Option("--quorum", help="Share of a lane to be measured by then; with less it pauses.")
    ] = 0.0,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Start a rollout to every device, or to those that `--to` selects; variants that are missing are built first."""
    options = {
        "max_failures": max_failures,
        "probe_inferences": probe_inferences,
        "silence_deadline_s": silence_s,
        "progress_deadline_s": progress_s,
        "retry_patience_s": retry_s,
        "min_inferences": min_inferences,
        "max_error_rate": max_error_rate,
        "max_error_rise": max_error_rise,
        "max_slowdown": max_slowdown,
        "gate_deadline_s": gate_s,
        "quorum": quorum,
    }
    # an impossible plan is refused before the registry is asked anything
    plan = _plan(to, waves, seed, options)
    with connected(registry) as client:
        name, version = split_version(model) if "@" in model else (model, client.list_versions(model)[0].version)
        rollout = client.start_rollout(_request(name, version, plan))
        if not as_json:
            say(f"rollout {rollout.rollout_id} of {rollout.model}@{rollout.version} is {rollout.state}")
        _end(client, rollout, watch=watch, as_json=as_json, quiet=not watch)


@app.command()
def status(
    rollout_id: Annotated[str | None, typer.Argument(metavar="[ROLLOUT]", help="Without it, the latest.")] = None,
    registry: RegistryOption = None,
    *,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Where a rollout stands: its waves, its devices, and the decisions with their reasons."""
    with connected(registry) as client:
        rollout = client.get_rollout(rollout_id or _latest(client))
        _end(client, rollout, watch=watch, as_json=as_json)
        if not as_json:
            _show_reasons(client, rollout)


@app.command()
def explain(
    rollout_id: Annotated[str | None, typer.Argument(metavar="[ROLLOUT]", help="Without it, the latest.")] = None,
    registry: RegistryOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Why it went as it did: each decision in one sentence with its numbers, of the rollout, then lane by lane."""
    with connected(registry) as client:
        rollout = client.get_rollout(rollout_id or _latest(client))
    if as_json:
        show_documents(rollout.decisions)
        return
    say(f"rollout {rollout.rollout_id}  {rollout.model}@{rollout.version}  {rollout.state}")
    lanes = [decision.numbers.get("profile") for decision in rollout.decisions]
    for profile in (None, *sorted({str(lane) for lane in lanes if lane is not None})):
        if profile is not None:
            say(f"lane {profile}")
        for decision, lane in zip(rollout.decisions, lanes, strict=True):
            if lane == profile:
                say(f"  {text_of_time(decision.at)}  {decision.sentence}")


@app.command("list")
def list_(registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """All rollouts, newest first."""
    with connected(registry) as client:
        found = client.list_rollouts()
    if as_json:
        show_documents(found)
        return
    rows = [
        (
            rollout.rollout_id,
            f"{rollout.model}@{rollout.version}",
            rollout.selector or "every device",
            rollout.state,
            f"{sum(wave.running for wave in rollout.waves)}/{sum(wave.devices for wave in rollout.waves)}",
            text_of_time(rollout.created_at),
        )
        for rollout in found
    ]
    show_table(("rollout", "model", "to", "state", "running", "created"), rows, empty="no rollouts")


@app.command()
def pause(rollout_id: RolloutArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Offer it to nobody else until it is resumed."""
    _command(rollout_id, "pause", registry, as_json=as_json)


@app.command()
def resume(rollout_id: RolloutArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Go on after a pause."""
    _command(rollout_id, "resume", registry, as_json=as_json)


@app.command()
def abort(rollout_id: RolloutArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """End it: who has the version keeps it, nobody else gets it."""
    _command(rollout_id, "abort", registry, as_json=as_json)


@app.command()
def rollback(rollout_id: RolloutArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Every device goes back to what it ran before."""
    _command(rollout_id, "rollback", registry, as_json=as_json)


def _command(rollout_id: str, action: str, registry: str | None, *, as_json: bool) -> None:
    with connected(registry) as client:
        rollout = client.command_rollout(rollout_id, action)
    if as_json:
        show_json(rollout.model_dump(mode="json"))
    else:
        say(f"rollout {rollout.rollout_id} will {action.replace('rollback', 'roll back')}")


def _end(client: "RegistryClient", rollout: "Rollout", *, watch: bool, as_json: bool, quiet: bool = False) -> None:
    """Follow it if asked to, print it, and leave with the exit code that it earned."""
    if watch:
        rollout = _follow(client, rollout, silent=as_json)
    if as_json:
        show_json(rollout.model_dump(mode="json"))
    elif not quiet:
        _show(rollout)
    if watch and not is_good_end(rollout):
        raise typer.Exit(1)


def is_good_end(rollout: "Rollout") -> bool:
    """Whether it finished, no lane stopped, and somebody runs the version, unless nobody has a variant of it."""
    running = sum(wave.running for wave in rollout.waves)
    with_variant = sum(wave.devices - wave.no_variant for wave in rollout.waves)
    return rollout.state == GOOD_END and not rollout.stopped_lanes and (running > 0 or with_variant == 0)


def _follow(client: "RegistryClient", rollout: "Rollout", *, silent: bool) -> "Rollout":
    shown = None
    with live() as draw:
        while True:
            rows = _wave_rows(rollout)
            if not silent and rows != shown:
                draw(make_table((f"{rollout.model}@{rollout.version} {rollout.state}", *_COLUMNS), rows))
                shown = rows
            if rollout.state in ENDS:
                return rollout
            time.sleep(POLL_S)
            rollout = client.get_rollout(rollout.rollout_id)


def _show(rollout: "Rollout") -> None:
    say(f"rollout {rollout.rollout_id}  {rollout.model}@{rollout.version}  to {rollout.selector or 'every device'}")
    say(f"{rollout.state}  {rollout.reason}".rstrip())
    for stop in rollout.stopped_lanes:
        say(f"lane {stop.profile} has stopped: {stop.cause}")
    show_table(("", *_COLUMNS), _wave_rows(rollout), empty="no waves yet: the variants are being built")
    rows = [
        (
            deployment.device_id,
            deployment.profile,
            str(deployment.wave + 1),
            deployment.variant_id or "-",
            deployment.state,
            deployment.detail or ("" if deployment.reason == "none" else deployment.reason),
        )
        for deployment in rollout.deployments
    ]
    if rows:
        show_table(("device", "profile", "wave", "variant", "state", "why"), rows)
    for decision in rollout.decisions:
        say(f"{text_of_time(decision.at)}  {decision.sentence}")


def _show_reasons(client: "RegistryClient", rollout: "Rollout") -> None:
    """Why each profile gets its variant; what was chosen otherwise since the rollout began has no sentence."""
    carried = {(deployment.profile, deployment.variant_id) for deployment in rollout.deployments}
    for choice in client.list_choices(rollout.model, rollout.version):
        if choice.reason and (choice.profile, choice.variant_id) in carried:
            say(f"{choice.profile}: {choice.reason}")


def _wave_rows(rollout: "Rollout") -> list[tuple[str, ...]]:
    return [
        (
            ">" if wave.wave == rollout.wave and rollout.state not in ENDS else "",
            str(wave.wave + 1),
            str(wave.devices),
            str(wave.waiting),
            str(wave.in_progress),
            str(wave.running),
            str(wave.failed + wave.refused),
            str(wave.timed_out),
            str(wave.no_variant),
            str(wave.left),
        )
        for wave in rollout.waves
    ]


def _latest(client: "RegistryClient") -> str:
    found = client.list_rollouts()
    if not found:
        fail("There is no rollout yet: `edge-registry rollout start MODEL@VERSION`.")
    return found[0].rollout_id


def _plan(to: str, waves: str, seed: int, options: dict[str, float]) -> dict[str, object]:
    """The fields of a request that do not depend on the model."""
    from server.rollouts.plan import WavesError, parse_waves  # noqa: PLC0415  `--help` must not wait for these

    try:
        return {"selector": to, "waves": parse_waves(waves), "seed": seed, "options": options}
    except WavesError as exc:
        fail(str(exc), exit_code=2)


def _request(model: str, version: str, plan: dict[str, object]) -> "RolloutRequest":
    from pydantic import ValidationError  # noqa: PLC0415  `--help` must not wait for these

    from server.schemas.rollouts import RolloutRequest  # noqa: PLC0415
    from server.schemas.sentence import sentence  # noqa: PLC0415

    try:
        return RolloutRequest.model_validate({"model": model, "version": version, **plan})
    except ValidationError as exc:
        fail(sentence(exc.errors(include_url=False)), exit_code=2)
