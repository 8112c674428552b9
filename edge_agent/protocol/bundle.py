"""The diagnostic bundle: a .tar.gz of JSON and text for people. Its names are ours, whatever a device says. No IO."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge_agent.protocol.inquiry import Diagnosis, LogLine

README: Final = "README.txt"
# Each file of a bundle and what is in it; the README of each bundle says so, too.
DEVICE_FILES: Final = {
    "agent": "the agent: version, addresses, connection, uptime, processes, and what came that it could not use",
    "settings": "its settings; keys and tokens are left out",
    "machine": "the machine: profile as probed, memory, disk, clock, uptime, load, temperature",
    "runtimes": "inference runtimes that are installed, with their versions",
    "deployments": "deployments as it remembers them, the wanted state it accepted, transitions, why runners ended",
    "variants": "variants on disk: each file's size and sha256, and whether it is the one of the manifest",
    "transfers": "objects that are being fetched, and the bytes of them that are there",
    "telemetry": "the spool: reports that wait, bytes, and how many were dropped",
}
LOG_FILE: Final = "device/log.txt"
REGISTRY_FILES: Final = {
    "device": "the device as the registry knows it, with the last status that it reported",
    "desired": "what it is wanted to run",
    "deployments": "its deployments in rollouts, newest first",
    "decisions": "the last decisions of these rollouts, with the numbers that caused them",
    "telemetry": "its last telemetry windows",
    "inquiry": "when this bundle was asked for, and what became of it",
}


def device_files(diagnosis: Diagnosis) -> dict[str, bytes]:
    """The files that tell what the device says."""
    files = {f"device/{name}.json": json_file(getattr(diagnosis, name)) for name in DEVICE_FILES}
    return {**files, LOG_FILE: log_file(diagnosis.log.lines)}


def registry_files(documents: Mapping[str, object]) -> dict[str, bytes]:
    """The files that tell what the registry knows; keys are those of `REGISTRY_FILES`."""
    return {f"registry/{name}.json": json_file(documents[name]) for name in REGISTRY_FILES if name in documents}


def json_file(document: object) -> bytes:
    """A document as a file for people; what would move a terminal's cursor is escaped."""
    return (json.dumps(document, indent=2, sort_keys=True, default=str) + "\n").encode()


def log_file(lines: tuple[LogLine, ...]) -> bytes:
    """Lines of a log as a file for people."""
    return "".join(f"{shown(line)}\n" for line in lines).encode(errors="replace")


def shown(line: LogLine) -> str:
    """One line of a log for people; further lines of its text are indented."""
    at = datetime.fromtimestamp(min(line.at, 253402300799.0), UTC)
    return f"{at:%Y-%m-%d %H:%M:%S} {line.level.upper():<7} {line.text}".replace("\n", "\n    ")


def archive(files: Mapping[str, bytes], *, device_id: str | None, taken_at: float) -> bytes:
    """The bundle's bytes: all files in one folder, with a README that says what each is.

    Args:
        files: contents by name; names as `device_files` and `registry_files` make them.
        device_id: of the device; None: it has not joined.
        taken_at: seconds since 1970.
    """
    at = datetime.fromtimestamp(min(max(taken_at, 0.0), 253402300799.0), UTC)
    folder = f"shoal-{device_id or 'device'}-{at:%Y%m%dT%H%M%SZ}"
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in sorted({README: _readme(files, device_id, at), **files}.items()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size, member.mtime, member.mode = len(content), int(at.timestamp()), 0o644
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _readme(files: Mapping[str, bytes], device_id: str | None, at: datetime) -> bytes:
    described = {f"device/{name}.json": text for name, text in DEVICE_FILES.items()}
    described |= {LOG_FILE: "the last lines of the agent's own log"}
    described |= {f"registry/{name}.json": text for name, text in REGISTRY_FILES.items()}
    described |= {"device/unanswered.txt": "why the device's part is missing"}
    width = max(len(name) for name in described)
    rows = [f"{name:<{width}}  {text}" for name, text in described.items() if name in files]
    head = f"Diagnostic bundle of device {device_id or '(not joined)'}, {at:%Y-%m-%d %H:%M:%S} UTC.\n"
    note = (
        "Times are seconds since 1970 where they are numbers. Keys, tokens and the queries of addresses are left out.\n"
    )
    return "\n".join([head, *rows, "", note]).encode()
