"""What a message from the broker is: a report, a presence, a status, or something to refuse. Pure, and never raises."""

from dataclasses import dataclass
from typing import Final

from edge_agent.protocol.messages import (
    Presence,
    ProtocolError,
    Status,
    TelemetryReport,
    UnsupportedVersionError,
    decode,
)
from edge_agent.protocol.topics import DeviceTopic, ParsedDeviceTopic, parse
from server.telemetry.codec import BadSketchError, pack

KINDS: Final[dict[DeviceTopic, type[Presence | Status | TelemetryReport]]] = {
    DeviceTopic.PRESENCE: Presence,
    DeviceTopic.STATUS: Status,
    DeviceTopic.TELEMETRY: TelemetryReport,
}
DETAIL_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class PresenceNews:
    """A birth or a last will. `retained`: the broker kept it, so it does not show that the device lives now."""

    device: str
    presence: Presence
    retained: bool


@dataclass(frozen=True, slots=True)
class StatusNews:
    """A status report."""

    device: str
    status: Status
    retained: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A telemetry report, its sketches ready to be stored."""

    device: str
    report: TelemetryReport
    sketches: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """Not ours to act on. `kind` is short and of a closed set, for counting; `detail` is for people."""

    device: str
    kind: str
    detail: str


Intake = PresenceNews | StatusNews | Report | Refused


def read(topic: str, payload: bytes, *, retained: bool) -> Intake:
    """Read one message. The topic says which device speaks: the broker lets a device write to its own topics only."""
    parsed = parse(topic)
    if not isinstance(parsed, ParsedDeviceTopic) or parsed.kind not in KINDS:
        return Refused(device="", kind="foreign topic", detail=repr(topic[:DETAIL_CHARACTERS]))
    device = parsed.device
    if not payload:
        # an empty retained message is how the controller clears the topics of a removed device
        return Refused(device=device, kind="cleared", detail="")
    try:
        return _accept(device, decode(KINDS[parsed.kind], payload), retained=retained)
    except UnsupportedVersionError as exc:
        return Refused(device, f"unsupported version of {parsed.kind}", str(exc)[:DETAIL_CHARACTERS])
    except ProtocolError as exc:
        return Refused(device, f"malformed {parsed.kind}", str(exc)[:DETAIL_CHARACTERS])
    except BadSketchError as exc:
        return Refused(device, "bad sketch", str(exc)[:DETAIL_CHARACTERS])


def _accept(device: str, message: Presence | Status | TelemetryReport, *, retained: bool) -> Intake:
    if isinstance(message, Presence):
        return PresenceNews(device, message, retained)
    if isinstance(message, Status):
        return StatusNews(device, message, retained)
    return Report(device, message, pack(message))
