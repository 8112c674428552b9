from collections.abc import Callable, Sequence

import pytest
import zstandard

from edge_agent.protocol.messages import LatencySketch, TelemetryReport
from edge_agent.protocol.sketch import merge
from server.telemetry import codec
from server.telemetry.merge import SketchSum

MakeSketch = Callable[[Sequence[float]], LatencySketch]


def report_with(invoke: LatencySketch) -> TelemetryReport:
    return TelemetryReport(
        spool_id="0" * 32,
        sequence=0,
        model="m",
        version="1",
        variant_id="v",
        deployment_id="d",
        window_start=0,
        window_s=1,
        invoke=invoke,
    )


def test_pack_a_report_gives_the_same_sketches_back(make_sketch: MakeSketch) -> None:
    invoke = make_sketch([0.0, 0.001, 1.0, 2.0, 900_000.0])
    assert codec.unpack(codec.pack(report_with(invoke))).invoke == invoke


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(LatencySketch(offset=1 << 20, bins=(1,)), id="a bin that overflows as milliseconds"),
        pytest.param(LatencySketch(offset=-(1 << 20), bins=(1,)), id="a bin below any latency"),
        pytest.param(LatencySketch(bins=(1,) * 4096), id="bins beyond any latency"),
        pytest.param(LatencySketch(bins=(1 << 53,)), id="more values than a window holds"),
        pytest.param(LatencySketch(bins=(1,), min_ms=5, max_ms=1), id="min above max"),
        pytest.param(LatencySketch(bins=(1,), max_ms=1e300), id="a max of ages"),
        pytest.param(LatencySketch(bins=(1,), max_ms=1, sum_ms=1e308), id="a sum that overflows when added"),
        pytest.param(LatencySketch(bins=(1,), max_ms=1, relative_accuracy=1e-9), id="another accuracy"),
    ],
)
def test_pack_a_sketch_bomb_is_refused(bomb: LatencySketch) -> None:
    with pytest.raises(codec.BadSketchError):
        codec.pack(report_with(bomb))


def test_unpack_a_compression_bomb_is_refused() -> None:
    with pytest.raises(codec.BadSketchError):
        codec.unpack(zstandard.compress(b" " * 50_000_000))


def test_sketch_sum_equals_the_merge_of_the_protocol(make_sketch: MakeSketch) -> None:
    parts = [make_sketch([0.0, 1.0, 2.0]), make_sketch([]), make_sketch([0.5, 1e6]), make_sketch([2.0])]
    total = SketchSum()
    for part in parts:
        total.add(part)
    assert total.sketch() == merge(parts)


def test_sketch_sum_of_full_sketches_does_not_overflow() -> None:
    full = LatencySketch(bins=(codec.COUNT_LIMIT,), min_ms=1, max_ms=1, sum_ms=1)
    codec.check(full)
    total = SketchSum()
    for _ in range(100):
        total.add(full)
    assert total.sketch().count == 100 * codec.COUNT_LIMIT
