"""One entry of the log as text, and back; what is secret is taken out first. Pure.

An entry is a line `NUMBER TIME LEVEL text`; further lines of its text begin with a tab. So the file reads well, and no
text can look like another entry.
"""

from __future__ import annotations

import re
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from edge_agent.protocol.inquiry import MAX_TEXT, LogLevel, LogLine, LogTail, one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edge_agent.protocol.inquiry import Inquiry

HIDDEN = "***"
MAX_ENTRY_TEXT = 2000  # of the log on the disk: a traceback fits
_ENTRY = re.compile(r"(\d{1,15}) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ([A-Z]+) (.*)")
# what stands between // and @ of an address, and all behind its ?: a presigned address is a key
_USERINFO = re.compile(r"(?<=://)[^/\s@]*@")
_QUERY = re.compile(r"(\w+://[^\s?]*\?)[^\s\"'>)]*")


def hide(text: str, secrets: Iterable[str]) -> str:
    """A text in which nothing secret is left.

    Args:
        text: anything.
        secrets: that are known, such as the device's key; empty ones count for nothing.

    >>> hide("GET http://s3/b/x?X-Amz-Signature=1f failed", ())
    'GET http://s3/b/x?*** failed'
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USERINFO.sub(f"{HIDDEN}@", text))


def entry(line: LogLine) -> str:
    """The text of one entry, with the end of its last line."""
    at = datetime.fromtimestamp(min(line.at, 253402300799.0), UTC)
    text = one_line(line.text)[:MAX_ENTRY_TEXT].replace("\n", "\n\t")
    return f"{line.number} {at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z {line.level.upper()} {text}\n"


def entries(text: str) -> Iterator[LogLine]:
    """Read entries; what a power cut has damaged is left out."""
    current: tuple[int, float, LogLevel, list[str]] | None = None
    for row in text.split("\n"):
        if row.startswith("\t"):
            if current is not None:
                current[3].append(row[1:])
            continue
        if current is not None:
            yield _line(*current)
        current = _begun(row)
    if current is not None:
        yield _line(*current)


def tail(found: Iterable[LogLine], inquiry: Inquiry, *, now: float) -> LogTail:
    """The latest of the lines that are meant.

    Args:
        found: oldest first.
        inquiry: which are meant, and how many at most.
        now: seconds since 1970 by this device's clock.
    """
    since = 0.0 if inquiry.since_s is None else now - inquiry.since_s
    latest: deque[LogLine] = deque(maxlen=inquiry.lines)
    last_number = meant = newer = 0
    for line in found:
        last_number = line.number
        if line.at >= since and line.level.rank >= inquiry.level.rank:
            latest.append(line)
            meant += 1
            newer += line.number > inquiry.after
    if inquiry.after > last_number:  # the log that this number was of is lost
        return LogTail(lines=tuple(latest), last_number=last_number, left_out=meant - len(latest))
    lines = tuple(line for line in latest if line.number > inquiry.after)
    return LogTail(lines=lines, last_number=last_number, left_out=newer - len(lines))


def _begun(row: str) -> tuple[int, float, LogLevel, list[str]] | None:
    found = _ENTRY.fullmatch(row)
    if found is None:
        return None
    try:
        return int(found[1]), datetime.fromisoformat(found[2]).timestamp(), LogLevel(found[3].lower()), [found[4]]
    except ValueError:  # a month 13
        return None


def _line(number: int, at: float, level: LogLevel, rows: list[str]) -> LogLine:
    return LogLine(number=number, at=max(0.0, at), level=level, text="\n".join(rows)[:MAX_TEXT])
