"""Rollouts on the terminal: as they stand, and as they would go."""

from typing import TYPE_CHECKING, Final

from server.cli.output import say, show_table, text_of_bytes, text_of_time

if TYPE_CHECKING:
    from server.client import RegistryClient
    from server.schemas.rollouts import DeploymentView, DeviceForecast, Rollout, RolloutForecast, WaveForecast

GOOD_END: Final = "finished"
ENDS: Final = frozenset({GOOD_END, "stopped", "aborted", "rolled_back"})
WAVE_COLUMNS: Final = (
    "wave",
    "devices",
    "waiting",
    "in progress",
    "staged",
    "running",
    "failed",
    "timed out",
    "no variant",
    "left",
)


def show_rollout(rollout: "Rollout") -> None:
    """Its state, its waves, its devices and what was decided."""
    say(f"rollout {rollout.rollout_id}  {rollout.model}@{rollout.version}  to {rollout.selector or 'every device'}")
    say(f"{rollout.state}  {rollout.reason}".rstrip())
    for stop in rollout.stopped_lanes:
        say(f"lane {stop.profile} has stopped: {stop.cause}")
    for lane in rollout.lanes:
        if told := ", ".join(filter(None, ("paused" * lane.paused, lane.ended.replace("_", " ")))):
            undecided = lane.paused and lane.undecided
            why = ": what was measured decides nothing" if undecided else " by command"
            say(f"lane {lane.profile} is {told}{why}")
        if lane.rejected:
            say(f"lane {lane.profile} has rejected {', '.join(lane.rejected)}")
        if lane.asks and not lane.asks[-1].outcome:
            ask = lane.asks[-1]
            waits = f"waits for the compressor (job {ask.job_id})"
            say(f"lane {lane.profile} {waits} until {text_of_time(ask.until)} at most: {ask.cause}")
    show_table(("", *WAVE_COLUMNS), wave_rows(rollout), empty="no waves yet: the variants are being built")
    rows = [
        (
            deployment.device_id,
            deployment.profile,
            str(deployment.wave + 1),
            deployment.variant_id or "-",
            deployment.state,
            _why(deployment),
        )
        for deployment in rollout.deployments
    ]
    if rows:
        show_table(("device", "profile", "wave", "variant", "state", "why"), rows)
    for decision in rollout.decisions:
        say(f"{text_of_time(decision.at)}  {decision.sentence}")


def _why(deployment: "DeploymentView") -> str:
    if deployment.detail or deployment.reason != "none":
        return deployment.detail or deployment.reason
    return deployment.shadow.detail if deployment.shadow is not None else ""


def show_reasons(client: "RegistryClient", rollout: "Rollout") -> None:
    """Why each profile gets its variant; what was chosen otherwise since the rollout began has no sentence."""
    carried = {(deployment.profile, deployment.variant_id) for deployment in rollout.deployments}
    for choice in client.list_choices(rollout.model, rollout.version):
        if choice.reason and (choice.profile, choice.variant_id) in carried:
            say(f"{choice.profile}: {choice.reason}")


def wave_rows(rollout: "Rollout") -> list[tuple[str, ...]]:
    """A row for each wave, the open one marked."""
    return [
        (
            ">" if wave.wave == rollout.wave and rollout.state not in ENDS else "",
            str(wave.wave + 1),
            str(wave.devices),
            str(wave.waiting),
            str(wave.in_progress),
            str(wave.staged),
            str(wave.running),
            str(wave.failed + wave.refused),
            str(wave.timed_out),
            str(wave.no_variant),
            str(wave.left),
        )
        for wave in rollout.waves
    ]


def show_forecast(found: "RolloutForecast") -> None:
    """Who would get what, when and how many bytes: wave by wave, then device by device."""
    say(f"would go: {found.model}@{found.version} to {found.selector or 'every device'}; nothing was started")
    rows = [
        (
            str(wave.wave + 1),
            str(wave.devices),
            str(wave.no_variant),
            str(wave.to_be_built),
            str(wave.already),
            text_of_bytes(wave.download_bytes),
            _text_of_opening(wave),
            text_of_time(wave.latest_at),
        )
        for wave in found.waves
    ]
    columns = ("wave", "devices", "no variant", "to be built", "have it", "download", "opens", "last offer")
    show_table(columns, rows)
    devices = [
        (
            device.device_id,
            device.profile,
            str(device.wave + 1),
            _text_of_offer(device),
            "has it" if device.already else text_of_bytes(device.download_bytes) if device.variant_id else "-",
            text_of_time(device.earliest_at),
        )
        for device in found.devices
    ]
    show_table(("device", "lane", "wave", "gets", "download", "earliest"), devices)
    if found.staged_from is not None:
        say(f"devices fetch and prove it from {text_of_time(found.staged_from)} on, and answer with it in their waves")
    beyond = f"; {found.beyond} that match are in no wave" if found.beyond else ""
    unknown = sum(wave.to_be_built for wave in found.waves)
    built = f", and what is still to be built for {unknown}" if unknown else ""
    say(f"{text_of_bytes(found.download_bytes)} in all{built}{beyond}")


def _text_of_opening(wave: "WaveForecast") -> str:
    if wave.activation:
        return "once activated"
    return "on approval" if wave.approval else text_of_time(wave.earliest_at)


def _text_of_offer(device: "DeviceForecast") -> str:
    return "to be built" if device.to_be_built else device.variant_id or device.refusal
