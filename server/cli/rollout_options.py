"""The options of `edge-registry rollout start`: a flag for each field of a plan, and the request that they make."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_agent.protocol.refusal import shown
from server.cli.output import fail
from server.cli.tokens import seconds_of

if TYPE_CHECKING:
    from server.schemas.rollouts import RolloutRequest

To = Annotated[str, typer.Option("--to", help="Selector, for example site=berlin; empty: every device.")]
Waves = Annotated[str, typer.Option("--waves", help="Shares or counts of devices, growing.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides which devices come first.")]
MaxFailures = Annotated[int, typer.Option("--max-failures", min=0, help="Devices of a lane that may fail in one wave.")]
ProbeInferences = Annotated[
    int, typer.Option("--probe-inferences", min=0, help="What a device must have answered to count.")
]
SilenceDeadline = Annotated[float, typer.Option("--silence-deadline-s", min=1.0, help="Silent for so long: timed out.")]
ProgressDeadline = Annotated[
    float, typer.Option("--progress-deadline-s", min=1.0, help="Heard, but no further for so long: stuck.")
]
RetryPatience = Annotated[
    float, typer.Option("--retry-patience-s", min=0.0, help="Its transfers fail for so long: failed.")
]
MinInferences = Annotated[
    int, typer.Option("--min-inferences", min=0, help="What measures a device; 0: measurements stop nothing.")
]
MaxErrorRate = Annotated[float, typer.Option("--max-error-rate", help="Share of a lane's inferences that may fail.")]
MaxErrorRise = Annotated[
    float, typer.Option("--max-error-rise", help="How far it may be above that of the version before.")
]
MaxSlowdown = Annotated[float, typer.Option("--max-slowdown", help="Share by which p95 may be longer than before.")]
ShadowTime = Annotated[
    float, typer.Option("--shadow-s", min=0.0, help="Run beside the active version so long at most, answering nobody.")
]
ShadowCpu = Annotated[float, typer.Option("--shadow-cpu", help="Share of one core that a shadow may take.")]
ShadowSamples = Annotated[
    int, typer.Option("--shadow-samples", min=1, help="Answers to compare; a shadow that has so many ends.")
]
ShadowAgreement = Annotated[
    float, typer.Option("--shadow-agreement", help="Share of them that must agree with the active version's.")
]
ShadowTolerance = Annotated[
    float, typer.Option("--shadow-tolerance", help="Share of their range by which numbers that agree may differ.")
]
ShadowMaxSlowdown = Annotated[
    float, typer.Option("--shadow-max-slowdown", help="Share by which a lane's shadows may be slower.")
]
ShadowHold = Annotated[
    bool, typer.Option("--shadow-hold", help="With too little to compare wait on; else a device goes on and says so.")
]
MaxDefer = Annotated[
    float, typer.Option("--max-defer-s", min=0.0, help="Apps may make a device wait so long before the swap.")
]
GateDeadline = Annotated[
    float, typer.Option("--gate-deadline-s", min=0.0, help="The next wave waits so long for measurements.")
]
Quorum = Annotated[
    float, typer.Option("--quorum", help="Share of a lane to be measured and heard; with less it pauses.")
]
StartAt = Annotated[
    str,
    typer.Option("--start-at", help="Not before, for example 2026-11-27T02:00+01:00; without an offset, local time."),
]
Stage = Annotated[
    bool,
    typer.Option("--stage", help="Devices fetch and prove it, and answer with it only after `rollout activate`."),
]
ActivateAt = Annotated[
    str, typer.Option("--activate-at", help="What is staged activates by itself then; a time such as --start-at takes.")
]
WindowOption = Annotated[
    str, typer.Option("--window", help="A device is told to run it at this time of its day only, as in 22:00-04:00.")
]
TimeZone = Annotated[
    str, typer.Option("--time-zone", help="Of devices without a label such as tz=Europe/Berlin; for --window.")
]
Soak = Annotated[float, typer.Option("--soak-s", min=0.0, help="A wave runs so long before the next one opens.")]
Pace = Annotated[
    int | None, typer.Option("--pace-per-minute", min=1, help="Devices that are offered it in any minute at most.")
]
PaceGrowth = Annotated[float, typer.Option("--pace-growth", help="Factor by which the pace grows with each wave.")]
MaxInProgress = Annotated[
    int | None,
    typer.Option("--max-in-progress", min=1, help="Devices on the way at once; who fails takes no place."),
]
MaxRetries = Annotated[
    int, typer.Option("--max-retries", min=0, help="A device that failed is tried again so often before it counts.")
]
RetryFirst = Annotated[
    float, typer.Option("--retry-first-s", help="Longest rest before the first of these tries; doubles, up to an hour.")
]
OtherVariants = Annotated[
    int, typer.Option("--other-variants", min=0, help="Variants that a lane tries next whose devices reject one.")
]
AskCompressor = Annotated[
    str,
    typer.Option(
        "--ask-compressor",
        help="A lane with no variant left has one searched for so long, for example 10m; without it, it stops.",
    ),
]
AskTimes = Annotated[int, typer.Option("--ask-times", min=1, help="How often a lane asks at most.")]
AskDeadline = Annotated[float, typer.Option("--ask-deadline-s", min=1.0, help="How long a lane waits for an answer.")]
Priority = Annotated[
    int, typer.Option("--priority", help="While a rollout with a higher one has a device, this one waits for it.")
]
JoinLater = Annotated[
    bool, typer.Option("--join-later", help="Devices that match later join the wave that is open then.")
]
ApproveWaves = Annotated[
    str, typer.Option("--approve-waves", help="They wait for `rollout approve`: 2,3, or all, or last.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print who would get what, when and how many bytes; start nothing.")
]


def plan_of(to: str, waves: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that do not depend on the model; what can't be read ends the program."""
    from server.rollouts.plan import WavesError, parse_waves  # noqa: PLC0415  `--help` must not wait for these

    try:
        parsed = parse_waves(waves)
    except WavesError as exc:
        fail(str(exc), exit_code=2)
    told = {
        "start_at": _moment(options["start_at"]),
        "activate_at": _moment(options["activate_at"]),
        "ask_compressor_s": seconds_of(options["ask_compressor_s"]) if options["ask_compressor_s"] else 0.0,
        "approve_waves": _wave_numbers(options["approve_waves"], waves=len(parsed)),
    }
    return {"selector": to, "waves": parsed, "seed": seed, "options": {**options, **told}}


def request_of(model: str, version: str, plan: dict[str, Any]) -> "RolloutRequest":
    """The request; a value that does not fit ends the program with a sentence."""
    from pydantic import ValidationError  # noqa: PLC0415  `--help` must not wait for these

    from server.schemas.rollouts import RolloutRequest  # noqa: PLC0415
    from server.schemas.sentence import sentence  # noqa: PLC0415

    try:
        return RolloutRequest.model_validate({"model": model, "version": version, **plan})
    except ValidationError as exc:
        fail(sentence(exc.errors(include_url=False)), exit_code=2)


def _moment(text: str) -> float:
    """Seconds since 1970; 0 for nothing."""
    if not text:
        return 0.0
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        fail(f"{shown(text)} is no moment; write for example 2026-11-27T02:00+01:00.", exit_code=2)


def _wave_numbers(text: str, *, waves: int) -> tuple[int, ...]:
    """Numbers from 1, as people count waves."""
    named = {"": (), "all": tuple(range(1, waves + 1)), "last": (waves,)}
    if text in named:
        return named[text]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts) or len(text) > 100:  # noqa: PLR2004
        fail(f"{shown(text)} names no waves; write for example 2,3, or all, or last.", exit_code=2)
    return tuple(int(part) for part in parts)
