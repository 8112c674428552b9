from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.errors import ModelInvokeError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runner import engine as engine_module
from edge_agent.runner.engine import Engine, Worker
from edge_agent.runtimes.convert import BoundModel
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.runtimes.base import Array, LoadedModel
    from tests.edge_agent.conftest import Workshop


class Watched:
    """A real model that remembers which threads invoked it, and that no two invoked it at once."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._inside = threading.Lock()
        self.inputs, self.outputs = model.inputs, model.outputs
        self.threads: set[str] = set()
        self.before_invoke: Callable[[], None] = lambda: None

    def invoke(self, arrays: Sequence[Array]) -> list[Array]:
        assert self._inside.acquire(blocking=False), "two invokes at once"
        try:
            self.threads.add(threading.current_thread().name)
            self.before_invoke()
            return self._model.invoke(arrays)
        finally:
            self._inside.release()

    def delegate_partitions(self) -> int | None:
        return self._model.delegate_partitions()


class Clock:
    """The engine's time: it passes only when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def watched(workshop: Workshop) -> Watched:
    return Watched(open_runtime(RuntimeName.LITERT).load(workshop.float_file(), threads=1, delegate=Delegate.XNNPACK))


@pytest.fixture
def model(workshop: Workshop, watched: Watched, manifest_of: Callable[..., VariantManifest]) -> BoundModel:
    manifest = manifest_of(workshop.float_file(), workshop.network.signature)
    return BoundModel(watched, manifest.signature, manifest.inputs, manifest.outputs)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(engine_module, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("expected_ms", "rows", "thread"),
    [(0.01, 1, "MainThread"), (0.01, 200, "invoke"), (5.0, 1, "invoke")],
    ids=["short", "many-samples", "long"],
)
def test_run_of_short_work_stays_in_the_loop_and_long_work_leaves_it(
    workshop: Workshop, watched: Watched, model: BoundModel, expected_ms: float, rows: int, thread: str
) -> None:
    samples = workshop.network.samples(rows)
    engine = Engine(model, Worker(), expected_ms=expected_ms)
    outcome = asyncio.run(engine.run({"features": samples}, rows))
    np.testing.assert_allclose(outcome.outputs["scores"], workshop.network.expected(samples), atol=1e-5)
    assert watched.threads == {thread}
    assert engine.busy_ms == 0.0


def test_run_of_many_at_once_is_one_after_the_other(workshop: Workshop, model: BoundModel) -> None:
    samples = {rows: workshop.network.samples(rows) for rows in (1, 300)}
    engine = Engine(model, Worker(), expected_ms=0.01)

    async def everything() -> list[float]:
        outcomes = await asyncio.gather(*(engine.run({"features": samples[rows]}, rows) for rows in (300, 1, 300, 1)))
        for rows, outcome in zip((300, 1, 300, 1), outcomes, strict=True):
            expected = workshop.network.expected(samples[rows])
            np.testing.assert_allclose(outcome.outputs["scores"], expected, atol=1e-5)
        return [outcome.queue_ms for outcome in outcomes]

    waited_ms = asyncio.run(everything())
    assert waited_ms[3] > waited_ms[0]


def test_run_that_fails_is_raised_and_the_engine_goes_on(workshop: Workshop, model: BoundModel) -> None:
    engine = Engine(model, Worker(), expected_ms=5.0)

    async def twice() -> None:
        with pytest.raises(ModelInvokeError):
            await engine.run({"features": np.zeros((1, 9), dtype=np.float32)}, 1)
        await engine.run({"features": workshop.network.samples(1)}, 1)

    asyncio.run(twice())
    assert engine.busy_ms == 0.0


def test_run_of_a_long_batch_is_busy_no_longer_than_its_longest_invoke(
    workshop: Workshop, watched: Watched, model: BoundModel, clock: Clock
) -> None:
    engine = Engine(model, Worker(), expected_ms=80.0)
    busy_ms = []

    def take_80_ms() -> None:
        clock.now_s += 0.08
        busy_ms.append(engine.busy_ms)

    watched.before_invoke = take_80_ms
    outcome = asyncio.run(engine.run({"features": workshop.network.samples(12)}, 12))
    assert busy_ms == pytest.approx([80.0] * 12)
    assert outcome.invoke_ms == pytest.approx(960.0)
    assert outcome.queue_ms == pytest.approx(0.0)


def test_run_of_one_sample_does_not_wait_for_a_whole_batch(
    workshop: Workshop, watched: Watched, model: BoundModel, clock: Clock
) -> None:
    engine = Engine(model, Worker(), expected_ms=engine_module.SLICE_MS)
    done: list[int] = []

    def take_a_slice() -> None:
        clock.now_s += engine_module.SLICE_MS / 1e3

    watched.before_invoke = take_a_slice

    async def ask(rows: int) -> None:
        samples = workshop.network.samples(rows, seed=rows)
        outcome = await engine.run({"features": samples}, rows)
        np.testing.assert_allclose(outcome.outputs["scores"], workshop.network.expected(samples), atol=1e-5)
        done.append(rows)

    async def everything() -> None:
        await asyncio.gather(*(ask(rows) for rows in (40, 20, 1)))

    asyncio.run(everything())
    assert done == [1, 20, 40]


@pytest.mark.parametrize(
    ("expected_ms", "batch", "samples"), [(80.0, 1, 375), (40_000.0, 1, 1), (80.0, 4, 1500), (40_000.0, 4, 4)]
)
def test_samples_within_a_time_are_whole_invokes_and_at_least_one(
    workshop: Workshop, manifest_of: Callable[..., VariantManifest], expected_ms: float, batch: int, samples: int
) -> None:
    path = workshop.float_file(batch=batch)
    manifest = manifest_of(path, workshop.network.signature)
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.NONE)
    model = BoundModel(loaded, manifest.signature, manifest.inputs, manifest.outputs)
    assert Engine(model, Worker(), expected_ms=expected_ms).samples_within(30_000.0) == samples
