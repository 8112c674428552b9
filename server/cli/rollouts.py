"""`edge-registry rollout`."""

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.cli import rollout_options as of
from server.cli.options import JsonOption, ModelArgument, RegistryOption, split_version
from server.cli.output import fail, live, make_table, say, show_documents, show_json, show_table, text_of_time
from server.cli.rollout_page import ENDS, GOOD_END, WAVE_COLUMNS, show_forecast, show_reasons, show_rollout, wave_rows
from server.cli.session import connected

if TYPE_CHECKING:
    from server.client import RegistryClient
    from server.schemas.rollouts import Rollout, RolloutRequest

app = typer.Typer(help="Deliver a version to devices, wave by wave.", no_args_is_help=True)

POLL_S: Final = 1.0
_WORDS: Final = {
    "rollback": "roll back",
    "approve": "open the wave that waits",
    "retry": "try the failed again",
    "activate": "activate what its devices hold ready, wave by wave",
}

RolloutArgument = Annotated[str, typer.Argument(metavar="ROLLOUT")]
LaneOption = Annotated[
    str | None, typer.Option("--profile", help="This lane alone: the devices with this profile; without it, all.")
]
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
    to: of.To = "",
    waves: of.Waves = "100%",
    max_failures: of.MaxFailures = 0,
    probe_inferences: of.ProbeInferences = 0,
    silence_deadline_s: of.SilenceDeadline = 600.0,
    seed: of.Seed = 0,
    registry: RegistryOption = None,
    *,
    progress_deadline_s: of.ProgressDeadline = 3600.0,
    retry_patience_s: of.RetryPatience = 300.0,
    min_inferences: of.MinInferences = 200,
    max_error_rate: of.MaxErrorRate = 0.02,
    max_error_rise: of.MaxErrorRise = 0.002,
    max_slowdown: of.MaxSlowdown = 0.1,
    shadow_s: of.ShadowTime = 0.0,
    shadow_cpu: of.ShadowCpu = 0.2,
    shadow_samples: of.ShadowSamples = 200,
    shadow_agreement: of.ShadowAgreement = 0.98,
    shadow_tolerance: of.ShadowTolerance = 0.05,
    shadow_max_slowdown: of.ShadowMaxSlowdown = 0.5,
    shadow_hold: of.ShadowHold = False,
    max_defer_s: of.MaxDefer = 3600.0,
    gate_deadline_s: of.GateDeadline = 600.0,
    quorum: of.Quorum = 0.0,
    start_at: of.StartAt = "",
    stage: of.Stage = False,
    activate_at: of.ActivateAt = "",
    window: of.WindowOption = "",
    time_zone: of.TimeZone = "UTC",
    soak_s: of.Soak = 0.0,
    pace_per_minute: of.Pace = None,
    pace_growth: of.PaceGrowth = 1.0,
    max_in_progress: of.MaxInProgress = None,
    max_retries: of.MaxRetries = 0,
    retry_first_s: of.RetryFirst = 60.0,
    other_variants: of.OtherVariants = 2,
    ask_compressor: of.AskCompressor = "",
    ask_times: of.AskTimes = 2,
    ask_deadline_s: of.AskDeadline = 7200.0,
    priority: of.Priority = 0,
    join_later: of.JoinLater = False,
    approve_waves: of.ApproveWaves = "",
    dry_run: of.DryRun = False,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Start a rollout to every device, or to those that `--to` selects; variants that are missing are built first."""
    options = {
        "max_failures": max_failures,
        "probe_inferences": probe_inferences,
        "silence_deadline_s": silence_deadline_s,
        "progress_deadline_s": progress_deadline_s,
        "retry_patience_s": retry_patience_s,
        "min_inferences": min_inferences,
        "max_error_rate": max_error_rate,
        "max_error_rise": max_error_rise,
        "max_slowdown": max_slowdown,
        "shadow_s": shadow_s,
        "shadow_cpu": shadow_cpu,
        "shadow_samples": shadow_samples,
        "shadow_agreement": shadow_agreement,
        "shadow_tolerance": shadow_tolerance,
        "shadow_max_slowdown": shadow_max_slowdown,
        "shadow_hold": shadow_hold,
        "max_defer_s": max_defer_s,
        "gate_deadline_s": gate_deadline_s,
        "quorum": quorum,
        "start_at": start_at,
        "stage": stage,
        "activate_at": activate_at,
        "window": window,
        "time_zone": time_zone,
        "soak_s": soak_s,
        "pace_per_minute": pace_per_minute,
        "pace_growth": pace_growth,
        "max_in_progress": max_in_progress,
        "max_retries": max_retries,
        "retry_first_s": retry_first_s,
        "other_variants": other_variants,
        "ask_compressor_s": ask_compressor,
        "ask_times": ask_times,
        "ask_deadline_s": ask_deadline_s,
        "priority": priority,
        "join_later": join_later,
        "approve_waves": approve_waves,
    }
    # an impossible plan is refused before the registry is asked anything
    plan = of.plan_of(to, waves, seed, options)
    with connected(registry) as client:
        name, version = split_version(model) if "@" in model else (model, client.list_versions(model)[0].version)
        request = of.request_of(name, version, plan)
        if dry_run:
            _forecast(client, request, as_json=as_json)
            return
        rollout = client.start_rollout(request)
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
            show_reasons(client, rollout)


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
    say(f"now  {rollout.reason}".rstrip())


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
def pause(
    rollout_id: RolloutArgument,
    registry: RegistryOption = None,
    *,
    profile: LaneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Offer it to nobody else until it is resumed."""
    _command(rollout_id, "pause", registry, profile=profile, as_json=as_json)


@app.command()
def resume(
    rollout_id: RolloutArgument,
    registry: RegistryOption = None,
    *,
    profile: LaneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on after a pause."""
    _command(rollout_id, "resume", registry, profile=profile, as_json=as_json)


@app.command()
def abort(
    rollout_id: RolloutArgument,
    registry: RegistryOption = None,
    *,
    profile: LaneOption = None,
    as_json: JsonOption = False,
) -> None:
    """End it: who has the version keeps it, nobody else gets it."""
    _command(rollout_id, "abort", registry, profile=profile, as_json=as_json)


@app.command()
def rollback(
    rollout_id: RolloutArgument,
    registry: RegistryOption = None,
    *,
    profile: LaneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every device goes back to what it ran before."""
    _command(rollout_id, "rollback", registry, profile=profile, as_json=as_json)


@app.command()
def retry(
    rollout_id: RolloutArgument,
    registry: RegistryOption = None,
    *,
    profile: LaneOption = None,
    as_json: JsonOption = False,
) -> None:
    """Offer it again to those that failed or timed out, in lanes that go on."""
    _command(rollout_id, "retry", registry, profile=profile, as_json=as_json)


@app.command()
def approve(rollout_id: RolloutArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Open the wave that waits for approval."""
    _command(rollout_id, "approve", registry, as_json=as_json)


@app.command()
def activate(rollout_id: RolloutArgument, registry: RegistryOption = None, *, as_json: JsonOption = False) -> None:
    """Let devices answer with what they hold ready, wave by wave."""
    _command(rollout_id, "activate", registry, as_json=as_json)


def _forecast(client: "RegistryClient", request: "RolloutRequest", *, as_json: bool) -> None:
    found = client.forecast_rollout(request)
    if as_json:
        show_json(found.model_dump(mode="json"))
    else:
        show_forecast(found)


def _command(rollout_id: str, action: str, registry: str | None, *, profile: str | None = None, as_json: bool) -> None:
    with connected(registry) as client:
        rollout = client.command_rollout(rollout_id, action, profile=profile)
    if as_json:
        show_json(rollout.model_dump(mode="json"))
    else:
        lane = "" if profile is None else f"lane {profile} of "
        say(f"{lane}rollout {rollout.rollout_id} will {_WORDS.get(action, action)}")


def _end(client: "RegistryClient", rollout: "Rollout", *, watch: bool, as_json: bool, quiet: bool = False) -> None:
    """Follow it if asked to, print it, and leave with the exit code that it earned."""
    if watch:
        rollout = _follow(client, rollout, silent=as_json)
    if as_json:
        show_json(rollout.model_dump(mode="json"))
    elif not quiet:
        show_rollout(rollout)
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
            rows = wave_rows(rollout)
            if not silent and rows != shown:
                draw(make_table((f"{rollout.model}@{rollout.version} {rollout.state}", *WAVE_COLUMNS), rows))
                shown = rows
            if rollout.state in ENDS:
                return rollout
            time.sleep(POLL_S)
            rollout = client.get_rollout(rollout.rollout_id)


def _latest(client: "RegistryClient") -> str:
    found = client.list_rollouts()
    if not found:
        fail("There is no rollout yet: `edge-registry rollout start MODEL@VERSION`.")
    return found[0].rollout_id
