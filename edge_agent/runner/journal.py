"""What a runner has counted since its last telemetry window, in a file that outlives the process.

Numbers in memory die with `kill -9`; what was written to a mapped file does not. One file is one window: the runner
locks it while it lives, the supervisor removes it once the window is in the spool, and makes the report from the file
when the runner could not send it any more. Counts are exact; of the latencies the first few thousand are kept.

Layout: a JSON document (what the window is of), the errors as JSON, counters, then records of one request each.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import secrets
import struct
import time
from typing import TYPE_CHECKING, Final

from edge_agent.protocol.messages import TelemetryReport

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZE_BYTES: Final = 64 << 10
_ERRORS_AT, _COUNTERS_AT = 2048, 6144
_COUNTERS = struct.Struct("<QQQdd")  # requests, samples, records, first and last moment (unix)
_RECORD = struct.Struct("<fff")  # queue, preprocess, invoke in ms
_RECORDS_AT = _COUNTERS_AT + _COUNTERS.size
CAPACITY: Final = (SIZE_BYTES - _RECORDS_AT) // _RECORD.size
UNSPOOLED: Final = "0" * 32  # the supervisor gives a report its place in the spool


class Journal:
    """The windows of one runner. A disk that takes nothing costs the journal, not the request."""

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        """Nothing is written before the first request.

        Args:
            folder: where the files go; the supervisor has made it.
            about: fields of the report that stay the same: model, version, variant_id, deployment_id.
        """
        self._folder, self._about = folder, json.dumps(dict(about)).encode()
        self._sent: list[int] = []  # descriptors, and so locks, of windows that the supervisor may not have kept yet
        self._descriptor = -1
        self._map: mmap.mmap | None = None
        self._name = ""
        self._requests = self._samples = self._records = 0
        self._began = 0.0

    def observed(self, *, samples: int, queue_ms: float, preprocess_ms: float, invoke_ms: float) -> None:
        """A request was answered."""
        area = self._area()
        if area is None:
            return
        if self._records < CAPACITY:
            _RECORD.pack_into(area, _RECORDS_AT + self._records * _RECORD.size, queue_ms, preprocess_ms, invoke_ms)
            self._records += 1
        self._requests += 1
        self._samples += samples
        self._count(area)

    def failed(self, errors: Mapping[str, int], *, requests: int) -> None:
        """Errors of the window so far, and how many requests more they make."""
        area = self._area()
        if area is None:
            return
        text = json.dumps(errors).encode()[: _COUNTERS_AT - _ERRORS_AT]
        area[_ERRORS_AT : _ERRORS_AT + len(text)] = text
        self._requests += requests
        self._count(area)

    def __del__(self) -> None:
        """Let go of the files; what is in them stays."""
        for descriptor in [*self._sent, self._descriptor]:
            if descriptor >= 0:
                os.close(descriptor)

    def cut(self) -> str | None:
        """End the window; the name of its file, None when nothing was written."""
        self._sent = [descriptor for descriptor in self._sent if not _removed(descriptor)]
        name, area = self._name, self._map
        if area is None:
            return None
        area.close()
        self._sent.append(self._descriptor)
        self._map, self._descriptor, self._name = None, -1, ""
        self._requests = self._samples = self._records = 0
        return name

    def _count(self, area: mmap.mmap) -> None:
        counters = (self._requests, self._samples, self._records, self._began, time.time())
        _COUNTERS.pack_into(area, _COUNTERS_AT, *counters)

    def _area(self) -> mmap.mmap | None:
        if self._map is not None:
            return self._map
        name = secrets.token_hex(12)
        path = self._folder / name
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # room is taken now: writing to a mapped hole on a full disk would end the process
            os.posix_fallocate(descriptor, 0, SIZE_BYTES)
            area = mmap.mmap(descriptor, SIZE_BYTES)
        except OSError:
            if descriptor >= 0:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    path.unlink()
            return None
        area[: len(self._about)] = self._about
        self._map, self._descriptor, self._name, self._began = area, descriptor, name, time.time()
        return area


def is_held(path: Path) -> bool:
    """Whether a living runner still writes this file, or waits for its window to be kept."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def report_of(content: bytes) -> TelemetryReport | None:
    """The report of a window whose runner is gone; None when the file tells nothing."""
    from edge_agent.protocol.sketch import new_sketch, to_wire  # noqa: PLC0415  rare, and the supervisor is small

    try:
        requests, samples, records, began, ended = _COUNTERS.unpack_from(content, _COUNTERS_AT)
        about = json.loads(content[:_ERRORS_AT].rstrip(b"\0"))
        errors = json.loads(content[_ERRORS_AT:_COUNTERS_AT].rstrip(b"\0") or b"{}")
        if not requests:
            return None
        sketches = (new_sketch(), new_sketch(), new_sketch())
        for number in range(min(records, CAPACITY)):
            values = _RECORD.unpack_from(content, _RECORDS_AT + number * _RECORD.size)
            for sketch, value in zip(sketches, values, strict=True):
                sketch.add(max(0.0, value))
        return TelemetryReport.model_validate(
            {
                **about,
                "spool_id": UNSPOOLED,
                "sequence": 0,
                "window_start": max(0.0, began),
                "window_s": max(0.0, ended - began),
                "source": "http",
                "requests": requests,
                "inferences": samples,
                "errors": errors,
                **dict(zip(("queue", "preprocess", "invoke"), map(to_wire, sketches), strict=True)),
            }
        )
    except (ValueError, TypeError, struct.error):
        return None


def _removed(descriptor: int) -> bool:
    """Whether the supervisor has removed this file; its descriptor is closed then."""
    if os.fstat(descriptor).st_nlink:
        return False
    os.close(descriptor)
    return True
