"""What supervisor and runner say to each other: one JSON object a line, over an inherited socket pair.

The runner is started with a `RunnerSpec` as its first line. It loads the file, runs the self-test and answers `Proven`
or `Refused` (then it exits). It accepts nobody before `Serve`. `Beat` comes every second: its silence is a hang.
`Drain` stops accepting; open connections are answered with `Connection: close`; `Drained` is its last word.

With a `ShadowSpec` it compares itself, once proven, with the runner that answers, which `Mirror` has told where copies
of its requests shall go, and says `Compared`; `Serve` ends that.

The front process gets `Routes` instead of a spec, and answers `Serving`, `Beat` and `Drained` as a runner does. A
control socket that ends means that the supervisor is gone: leave at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from edge_agent.protocol.base import Bytes, Count, Milliseconds, Name, Seconds, Wire
from edge_agent.protocol.manifest import VariantManifest
from edge_agent.protocol.messages import SelfTestReport, TelemetryReport
from edge_agent.protocol.profile import Limits
from edge_agent.protocol.shadow import ShadowPlan, ShadowReport
from edge_agent.protocol.states import Reason

ANSWER_S = 10.0  # for requests that run when the deadline of a drain is over
BEAT_INTERVAL_S = 1.0


class ShadowSpec(Wire):
    """Once proven, compare with the active runner, which connects to this inherited listening descriptor."""

    plan: ShadowPlan
    descriptor: int


class RunnerSpec(Wire):
    """All that a runner must know; it reads nothing else of the agent's."""

    kind: Literal["spec"] = "spec"
    deployment_id: Name
    manifest: VariantManifest
    model_path: Path
    golden_path: Path | None = None
    limits: Limits = Limits()
    address_space_bytes: Bytes | None = None  # that the model may add (RLIMIT_AS); None: as much as there is
    window_s: Seconds = 10.0
    journal_dir: Path | None = None  # where what is counted is written down as well, so that a kill costs no count
    probe_runs: Annotated[int, Field(ge=1, le=10_000)] = 30  # latency runs of the self-test
    probe_budget_s: Seconds = 5.0  # and the time after which it stops counting them
    serving: bool = True  # False: a self-test only, then exit
    shadow: ShadowSpec | None = None


class Serve(Wire):
    """Accept on these inherited listening descriptors."""

    kind: Literal["serve"] = "serve"
    descriptors: tuple[int, ...]


class StopAccepting(Wire):
    """Leave these descriptors to another process, go on with the rest and with every open connection."""

    kind: Literal["stop_accepting"] = "stop_accepting"
    descriptors: tuple[int, ...]


class Drain(Wire):
    """Accept nobody new, answer who is connected, leave when the last has gone or the time is over."""

    kind: Literal["drain"] = "drain"
    deadline_s: Seconds = 60.0


class Routes(Wire):
    """To the front, first and after each change: the Unix socket of every model that has a runner; the whole set."""

    kind: Literal["routes"] = "routes"
    sockets: dict[Name, Path]


class Mirror(Wire):
    """To the runner that answers: copy requests to the shadow that listens on this Unix socket, as long as it does."""

    kind: Literal["mirror"] = "mirror"
    socket: Path


class SetWindow(Wire):
    """Cut telemetry into windows of this length."""

    kind: Literal["set_window"] = "set_window"
    window_s: Seconds


class Proven(Wire):
    """The file is loaded and the self-test has passed."""

    kind: Literal["proven"] = "proven"
    report: SelfTestReport


class Refused(Wire):
    """This variant can't serve here, and why; the runner exits after it."""

    kind: Literal["refused"] = "refused"
    reason: Reason
    detail: str = ""
    report: SelfTestReport | None = None


class Compared(Wire):
    """What a shadow has found so far."""

    kind: Literal["compared"] = "compared"
    report: ShadowReport


class Serving(Wire):
    """The runner accepts connections."""

    kind: Literal["serving"] = "serving"


class Beat(Wire):
    """A sign of life. `inferences` counts samples since the runner began to serve."""

    kind: Literal["beat"] = "beat"
    inferences: Count = 0
    connections: Count = 0
    busy_ms: Milliseconds = 0.0  # how long the oldest invoke has been running; a hang shows here
    rss_bytes: Bytes = 0


class Window(Wire):
    """One telemetry window; the supervisor fills in spool id, sequence and the board's own readings."""

    kind: Literal["window"] = "window"
    report: TelemetryReport
    journal: str | None = None  # the file that holds the same; the supervisor removes it once it has the report


class Drained(Wire):
    """The last connection has gone; the last window has been sent."""

    kind: Literal["drained"] = "drained"


ToRunner = Annotated[RunnerSpec | Serve | StopAccepting | Mirror | Drain | SetWindow, Field(discriminator="kind")]
ToFront = Annotated[Routes | Serve | StopAccepting | Drain, Field(discriminator="kind")]
FromRunner = Annotated[Proven | Refused | Compared | Serving | Beat | Window | Drained, Field(discriminator="kind")]
_LATE = ConfigDict(defer_build=True)  # each process reads one of them
TO_RUNNER: TypeAdapter[ToRunner] = TypeAdapter(ToRunner, config=_LATE)
TO_FRONT: TypeAdapter[ToFront] = TypeAdapter(ToFront, config=_LATE)
FROM_RUNNER: TypeAdapter[FromRunner] = TypeAdapter(FromRunner, config=_LATE)


def line(message: Wire) -> bytes:
    """A message as one line."""
    return message.model_dump_json(exclude_none=True).encode() + b"\n"
