"""The three sketches of a report as one column: zstd of JSON. Also the rule which sketches may enter at all.

A sketch from outside is refused when it could not be merged or asked later: another accuracy has no common bins, and a
bin far outside any latency overflows when it becomes milliseconds. Pure: no database.
"""

import math
from typing import Final

import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from edge_agent.protocol.messages import LatencySketch, TelemetryReport
from edge_agent.protocol.sketch import RELATIVE_ACCURACY
from server.errors import RegistryError

GAMMA: Final = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY)
SHORTEST_MS: Final = 1e-6  # a nanosecond
LONGEST_MS: Final = 1e9  # 11 days
FIRST_BIN: Final = math.floor(math.log(SHORTEST_MS) / math.log(GAMMA))
LAST_BIN: Final = math.ceil(math.log(LONGEST_MS) / math.log(GAMMA))
# 2^20 full sketches still sum within 64 bits
COUNT_LIMIT: Final = 1 << 40
# JSON of three full sketches; what unpacks to more was not packed here
UNPACKED_LIMIT_BYTES: Final = 256 * 1024
LEVEL: Final = 3


class BadSketchError(RegistryError):
    """A sketch that cannot be merged with others, or bytes that are none."""

    code = "bad_sketch"


class Sketches(BaseModel):
    """What one report says of latency."""

    model_config = ConfigDict(frozen=True)

    queue: LatencySketch = LatencySketch()
    preprocess: LatencySketch = LatencySketch()
    invoke: LatencySketch = LatencySketch()


def check(sketch: LatencySketch) -> None:
    """Let a sketch from outside in.

    Raises:
        BadSketchError: it could not be merged or asked later; says why.
    """
    if not sketch.bins and not sketch.zero_count:
        return
    if sketch.relative_accuracy != RELATIVE_ACCURACY:
        raise BadSketchError(
            f"relative accuracy is {sketch.relative_accuracy}, this registry merges {RELATIVE_ACCURACY}"
        )
    if sketch.bins and not FIRST_BIN <= sketch.offset <= sketch.offset + len(sketch.bins) - 1 <= LAST_BIN:
        raise BadSketchError(
            f"bins {sketch.offset} to {sketch.offset + len(sketch.bins) - 1} are outside {FIRST_BIN} to {LAST_BIN}"
        )
    if sketch.count > COUNT_LIMIT:
        raise BadSketchError(f"{sketch.count} values are more than the {COUNT_LIMIT} that one window can hold")
    if not sketch.min_ms <= sketch.max_ms <= LONGEST_MS:
        raise BadSketchError(f"min {sketch.min_ms} ms and max {sketch.max_ms} ms do not fit")
    if sketch.sum_ms > COUNT_LIMIT * LONGEST_MS:
        raise BadSketchError(f"a sum of {sketch.sum_ms} ms does not fit")


def pack(report: TelemetryReport) -> bytes:
    """The sketches of a report as they are stored.

    Raises:
        BadSketchError: one of them may not enter.
    """
    sketches = Sketches(queue=report.queue, preprocess=report.preprocess, invoke=report.invoke)
    for sketch in (sketches.queue, sketches.preprocess, sketches.invoke):
        check(sketch)
    return pack_sketches(sketches)


def pack_sketches(sketches: Sketches) -> bytes:
    """Sketches that have been let in, as they are stored."""
    return zstandard.compress(sketches.model_dump_json(exclude_defaults=True).encode(), LEVEL)


def unpack(stored: bytes) -> Sketches:
    """What `pack` stored.

    Raises:
        BadSketchError: the bytes are damaged.
    """
    try:
        text = zstandard.ZstdDecompressor().decompress(stored, max_output_size=UNPACKED_LIMIT_BYTES)
        return Sketches.model_validate_json(text)
    except (zstandard.ZstdError, ValidationError) as exc:
        raise BadSketchError("A stored latency sketch is damaged: restore the telemetry database.") from exc
