"""The MQTT payloads, and the one way to read and write them.

JSON, versioned by `v`. An unknown field is ignored; an unknown version is refused by `UnsupportedVersionError`; what
does not fit otherwise by `MalformedMessageError`. `encode` and `decode` are the only door: caps hold on both sides.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, ValidationError

from edge_agent.protocol.base import PROTOCOL_VERSION, Bytes, Count, Detail, Milliseconds, Name, Seconds, Sha256, Wire
from edge_agent.protocol.delta import Delta, Fetched
from edge_agent.protocol.profile import Delegate, Limits, RuntimeName
from edge_agent.protocol.shadow import ShadowPlan, ShadowReport
from edge_agent.protocol.states import DeploymentState, Reason
from edge_agent.protocol.topics import MAX_PAYLOAD_BYTES, DeviceTopic

SessionId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
SpoolId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
UnixTime = Annotated[
    float, Field(ge=0, le=1e11, allow_inf_nan=False, description="seconds since 1970, by the sender's clock")
]


class Message(Wire):
    """A whole payload."""

    topic: ClassVar[DeviceTopic]
    v: Annotated[int, Field(ge=1)] = PROTOCOL_VERSION


class Presence(Message):
    """Birth (`online`) or the delayed last will. Only one with a newer (session_counter, session_id) counts."""

    topic = DeviceTopic.PRESENCE
    session_id: SessionId
    session_counter: Count  # grows with each connection: the time in ms, or one more than the last
    online: bool
    agent_version: Annotated[str, Field(max_length=64)] = ""
    # names of the sender's, which may be newer and know more of them
    runtimes: dict[Name, Annotated[str, Field(max_length=64)]] = Field(default_factory=dict, max_length=32)
    sent_at: UnixTime = 0.0


class DesiredDeployment(Wire):
    """One model that a device shall run. `manifest_sha256` names the manifest to fetch."""

    deployment_id: Name
    model: Name
    version: Name
    variant_id: Name
    manifest_sha256: Sha256
    manifest_bytes: Annotated[Bytes, Field(le=16 << 20)]
    limits: Limits = Limits()
    shadow: ShadowPlan | None = None  # beside the active one first; an agent that does not know it activates at once
    deltas: Annotated[tuple[Delta, ...], Field(max_length=2)] = ()  # each for those who have its base
    max_defer_s: Seconds = 0.0  # how long apps may ask it to wait before the swap; 0: not at all


class Desired(Message):
    """The full wanted state of a device; the database owns it. Later means greater (epoch, generation).

    `staged`: what shall lie ready beside that, and answer nobody. Named later among `deployments`, under the same id,
    it is activated without a download. A list of its own, so that an agent that does not know it goes on as it does.
    """

    topic = DeviceTopic.DESIRED
    epoch: Count
    generation: Count
    deployments: Annotated[tuple[DesiredDeployment, ...], Field(max_length=64)] = ()
    staged: Annotated[tuple[DesiredDeployment, ...], Field(max_length=64)] = ()
    status_interval_s: Seconds = 30.0
    telemetry_window_s: Seconds = 10.0

    @property
    def entries(self) -> tuple[DesiredDeployment, ...]:
        """All whose files the device shall have, to run them or to hold them ready."""
        return (*self.deployments, *self.staged)

    @property
    def order(self) -> tuple[int, int]:
        """What decides which of two is the later one."""
        return self.epoch, self.generation


class SelfTestReport(Wire):
    """What the device measured on the way in; every figure has the origin `device`."""

    passed: bool
    runtime: RuntimeName
    runtime_version: Annotated[str, Field(max_length=64)] = ""
    delegate: Delegate
    load_ms: Milliseconds = 0.0
    first_ms: Milliseconds = 0.0
    p50_ms: Milliseconds = 0.0
    p95_ms: Milliseconds = 0.0
    runs: Count = 0
    rss_bytes: Bytes = 0
    golden_max_error: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    detail: Detail = ""


class DeploymentStatus(Wire):
    """Where one deployment stands on the device."""

    deployment_id: Name
    model: Name
    version: Name
    variant_id: Name
    state: DeploymentState
    reason: Reason = Reason.NONE
    detail: Detail = ""
    attempt: Count = 0
    bytes_done: Bytes = 0
    bytes_total: Bytes = 0
    bytes_received: Bytes = 0  # over the network, blocks received twice included
    fetched: Fetched = Fetched.WHOLE
    self_test: SelfTestReport | None = None
    shadow: ShadowReport | None = None  # None: none was asked for, or its turn has not come
    serving: bool = False  # a runner with this file answers now
    file_sha256: Sha256 | None = None  # of the file that the runner has loaded
    inferences: Count = 0  # answered by this deployment since it became active, golden probes not counted
    changed_at: UnixTime = 0.0


class Status(Message):
    """The actual state of a device."""

    topic = DeviceTopic.STATUS
    session_id: SessionId
    sequence: Count  # grows for ever, as session_counter does: of two reports the higher is the later
    observed_epoch: Count
    observed_generation: Count
    deployments: Annotated[tuple[DeploymentStatus, ...], Field(max_length=256)] = ()
    storage_free_bytes: Bytes = 0
    sent_at: UnixTime = 0.0


class LatencySketch(Wire):
    """A DDSketch of milliseconds: `bins[i]` counts values in (gamma^(offset+i-1), gamma^(offset+i)].

    gamma = (1 + relative_accuracy) / (1 - relative_accuracy). Two sketches of one accuracy merge by adding bins.
    Source: Masson, Rim, Lee 2019, arXiv:1908.10693.
    """

    relative_accuracy: Annotated[float, Field(gt=0, lt=1)] = 0.01
    zero_count: Count = 0
    offset: Annotated[int, Field(ge=-(1 << 20), le=1 << 20)] = 0
    bins: Annotated[tuple[Count, ...], Field(max_length=4096)] = ()
    min_ms: Milliseconds = 0.0
    max_ms: Milliseconds = 0.0
    sum_ms: Milliseconds = 0.0

    @property
    def count(self) -> int:
        """Values in the sketch."""
        return self.zero_count + sum(self.bins)


class TelemetryReport(Message):
    """One device, one variant, one window; unique by (device, spool_id, sequence)."""

    topic = DeviceTopic.TELEMETRY
    spool_id: SpoolId
    sequence: Count
    model: Name
    version: Name
    variant_id: Name
    deployment_id: Name
    window_start: UnixTime
    window_s: Seconds
    source: Literal["http", "inprocess"] = "http"
    requests: Count = 0
    inferences: Count = 0  # samples
    errors: dict[Annotated[str, Field(max_length=64)], Count] = Field(default_factory=dict, max_length=32)
    queue: LatencySketch = LatencySketch()
    preprocess: LatencySketch = LatencySketch()
    invoke: LatencySketch = LatencySketch()
    rss_bytes: Bytes = 0
    temperature_c: Annotated[float | None, Field(ge=-100, le=300, allow_inf_nan=False)] = None
    throttled: bool | None = None
    dropped_reports: Count = 0  # that the spool had to drop: a running total of its id


class AckRange(Wire):
    """Sequences first..last of one spool, both included, are in the database."""

    spool_id: SpoolId
    first: Count
    last: Count


class Ack(Message):
    """What the registry has committed: only this frees the spool."""

    topic = DeviceTopic.ACK
    ranges: Annotated[tuple[AckRange, ...], Field(max_length=1024)]


class AskKind(StrEnum):
    """What a device asks for."""

    DESIRED = "desired"
    MANIFEST = "manifest"
    BLOCKS = "blocks"
    URL = "url"


class Ask(Message):
    """A question with MQTT 5 correlation data; the answer comes on the device's reply topic.

    `blocks`: the object and a bitmap of the blocks still missing (see `bitmap`); they arrive on the private block
    topic, and the reply says how many were sent. `listening`: the device is subscribed to the object's broadcast topic,
    so a first pass would serve it. `url`: a presigned HTTPS address of the object.
    """

    topic = DeviceTopic.ASK
    kind: AskKind
    sha256: Sha256 | None = None
    missing: Annotated[bytes | None, Field(max_length=4096)] = None
    listening: bool = False
    observed_epoch: Count = 0
    observed_generation: Count = 0


class ReplyStatus(StrEnum):
    """How a question ended."""

    OK = "ok"
    NOT_FOUND = "not_found"
    GONE = "gone"
    SLOW_DOWN = "slow_down"
    UNAVAILABLE = "unavailable"  # the registry cannot reach its own store; ask again later


class Reply(Message):
    """The answer to an Ask, matched by correlation data."""

    topic = DeviceTopic.REPLY
    kind: AskKind
    status: ReplyStatus
    sha256: Sha256 | None = None
    desired: Desired | None = None
    manifest: str | None = None  # verbatim JSON: its sha256 is what desired named
    url: Annotated[str | None, Field(max_length=4096)] = None
    blocks_sent: Count = 0
    first_pass: bool = False  # the blocks come on the broadcast topic
    retry_after_s: Seconds = 0.0
    detail: Detail = ""


class ProtocolError(Exception):
    """A payload that is not ours to act on; `code` is its wire string."""

    code: ClassVar[str] = "malformed"


class MalformedMessageError(ProtocolError):
    """Too large, not JSON, or fields that do not fit."""


class UnsupportedVersionError(ProtocolError):
    """A payload of a version that this side does not speak."""

    code = "unsupported_version"


MessageT = TypeVar("MessageT", bound=Message)


def encode(message: Message) -> bytes:
    """The payload of a message.

    Raises:
        MalformedMessageError: it is larger than its topic allows.
    """
    payload = message.model_dump_json(exclude_none=True).encode()
    cap = MAX_PAYLOAD_BYTES[message.topic]
    if len(payload) > cap:
        raise MalformedMessageError(f"the {message.topic} payload may have {cap} bytes, this one has {len(payload)}")
    return payload


def decode(kind: type[MessageT], payload: bytes) -> MessageT:
    """Read a payload that came from outside.

    Raises:
        MalformedMessageError: too large, not a JSON object, or fields missing or out of range.
        UnsupportedVersionError: a version that this side does not speak.
    """
    cap = MAX_PAYLOAD_BYTES[kind.topic]
    if len(payload) > cap:
        raise MalformedMessageError(f"the {kind.topic} payload may have {cap} bytes, this one has {len(payload)}")
    try:
        # from the JSON text, not a parsed document: enums, tuples and base64 follow JSON rules there
        message = kind.model_validate_json(payload)
    except ValidationError as exc:
        raise _why_refused(kind, payload, exc) from exc
    if message.v > PROTOCOL_VERSION:
        raise _unsupported(kind, message.v)
    return message


def _why_refused(kind: type[Message], payload: bytes, exc: ValidationError) -> ProtocolError:
    """A newer version, no JSON object, or the first field that does not fit; parsed only now: few are refused."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return MalformedMessageError(f"the {kind.topic} payload is not JSON")
    if not isinstance(document, dict):
        return MalformedMessageError(f"the {kind.topic} payload is not a JSON object")
    version = document.get("v")
    if isinstance(version, int) and version > PROTOCOL_VERSION:
        return _unsupported(kind, version)
    first = exc.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return MalformedMessageError(f"the {kind.topic} payload does not fit: {where}: {first['msg']}")


def _unsupported(kind: type[Message], version: int) -> UnsupportedVersionError:
    return UnsupportedVersionError(
        f"the {kind.topic} payload has version {version}, this side speaks {PROTOCOL_VERSION}"
    )
