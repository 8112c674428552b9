"""The grammar of MQTT topics, in both directions: one place builds them, the same place reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

ROOT = "shoal/v1"


class DeviceTopic(StrEnum):
    """The last level of `shoal/v1/d/{device}/...`."""

    PRESENCE = "presence"
    DESIRED = "desired"
    STATUS = "status"
    TELEMETRY = "telemetry"
    ACK = "ack"
    ASK = "ask"
    REPLY = "reply"
    INQUIRY = "inquiry"
    ANSWER = "answer"


# Payload caps in bytes: larger ones are refused before anything parses them. Blocks carry up to 1 MiB by the manifest.
MAX_PAYLOAD_BYTES: dict[DeviceTopic, int] = {
    DeviceTopic.PRESENCE: 4 * 1024,
    DeviceTopic.DESIRED: 256 * 1024,
    DeviceTopic.STATUS: 256 * 1024,
    DeviceTopic.TELEMETRY: 256 * 1024,
    DeviceTopic.ACK: 256 * 1024,
    DeviceTopic.ASK: 64 * 1024,
    DeviceTopic.REPLY: 900 * 1024,
    DeviceTopic.INQUIRY: 4 * 1024,
    DeviceTopic.ANSWER: 96 * 1024,
}


@dataclass(frozen=True, slots=True)
class ParsedDeviceTopic:
    """`shoal/v1/d/{device}/{kind}`."""

    device: str
    kind: DeviceTopic


@dataclass(frozen=True, slots=True)
class ParsedBlockTopic:
    """A block for all (`device` None) or a private repair for one device."""

    sha256: str
    block: int
    device: str | None = None


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_DEVICE = re.compile(rf"{ROOT}/d/({_NAME})/({'|'.join(DeviceTopic)})")
_BROADCAST = re.compile(rf"{ROOT}/a/([0-9a-f]{{64}})/(0|[1-9][0-9]{{0,7}})")
_PRIVATE = re.compile(rf"{ROOT}/d/({_NAME})/block/([0-9a-f]{{64}})/(0|[1-9][0-9]{{0,7}})")


def device_topic(device: str, kind: DeviceTopic) -> str:
    """The topic of one kind of message of one device."""
    return f"{ROOT}/d/{device}/{kind}"


def every_device(kind: DeviceTopic, *, share: str | None = None) -> str:
    """A subscription to one kind of message of all devices; `share` divides them among a group of subscribers."""
    topic = f"{ROOT}/d/+/{kind}"
    return f"$share/{share}/{topic}" if share else topic


def broadcast_block(sha256: str, block: int) -> str:
    """The topic of a block that every listener of this object receives."""
    return f"{ROOT}/a/{sha256}/{block}"


def broadcast_blocks(sha256: str) -> str:
    """A subscription to every block of the first pass of an object."""
    return f"{ROOT}/a/{sha256}/+"


def private_block(device: str, sha256: str, block: int) -> str:
    """The topic of a block that repairs what this device missed."""
    return f"{ROOT}/d/{device}/block/{sha256}/{block}"


def private_blocks(device: str) -> str:
    """A device's subscription to its repairs."""
    return f"{ROOT}/d/{device}/block/+/+"


def parse(topic: str) -> ParsedDeviceTopic | ParsedBlockTopic | None:
    """Read a topic; None when it is not one of ours."""
    if match := _DEVICE.fullmatch(topic):
        return ParsedDeviceTopic(device=match[1], kind=DeviceTopic(match[2]))
    if match := _BROADCAST.fullmatch(topic):
        return ParsedBlockTopic(sha256=match[1], block=int(match[2]))
    if match := _PRIVATE.fullmatch(topic):
        return ParsedBlockTopic(sha256=match[2], block=int(match[3]), device=match[1])
    return None
