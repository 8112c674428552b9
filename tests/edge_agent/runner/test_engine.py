from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge_agent.errors import ModelInvokeError
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.runner.engine import Engine, Worker
from edge_agent.runtimes.convert import BoundModel
from edge_agent.runtimes.registry import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import VariantManifest
    from edge_agent.runtimes.base import Array
    from tests.edge_agent.conftest import Workshop


class Watched(BoundModel):
    """A real model that remembers which threads ran it, and that no two ran it at once."""

    threads: set[str]
    inside = 0

    def run_checked(self, arrays: dict[str, Array], rows: int) -> dict[str, Array]:  # type: ignore[override]
        self.inside += 1
        assert self.inside == 1, "two invokes at once"
        self.threads.add(threading.current_thread().name)
        outputs = super().run_checked(arrays, rows)
        self.inside -= 1
        return outputs


@pytest.fixture
def model(workshop: Workshop, manifest_of: Callable[..., VariantManifest]) -> Watched:
    path = workshop.float_file()
    manifest = manifest_of(path, workshop.network.signature)
    loaded = open_runtime(RuntimeName.LITERT).load(path, threads=1, delegate=Delegate.XNNPACK)
    watched = Watched(loaded, manifest.signature, manifest.inputs, manifest.outputs)
    watched.threads = set()
    return watched


@pytest.mark.parametrize(
    ("expected_ms", "rows", "thread"),
    [(0.01, 1, "MainThread"), (0.01, 200, "invoke"), (5.0, 1, "invoke")],
    ids=["short", "many-samples", "long"],
)
def test_run_of_short_work_stays_in_the_loop_and_long_work_leaves_it(
    workshop: Workshop, model: Watched, expected_ms: float, rows: int, thread: str
) -> None:
    samples = workshop.network.samples(rows)
    engine = Engine(model, Worker(), expected_ms=expected_ms)
    outcome = asyncio.run(engine.run({"features": samples}, rows))
    np.testing.assert_allclose(outcome.outputs["scores"], workshop.network.expected(samples), atol=1e-5)
    assert model.threads == {thread}
    assert engine.busy_ms == 0.0


def test_run_of_many_at_once_is_one_after_the_other(workshop: Workshop, model: Watched) -> None:
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


def test_run_that_fails_is_raised_and_the_engine_goes_on(workshop: Workshop, model: Watched) -> None:
    engine = Engine(model, Worker(), expected_ms=5.0)

    async def twice() -> None:
        model.inside = 0
        with pytest.raises(ModelInvokeError):
            await engine.run({"features": np.zeros((1, 9), dtype=np.float32)}, 1)
        model.inside = 0
        await engine.run({"features": workshop.network.samples(1)}, 1)

    asyncio.run(twice())
    assert engine.busy_ms == 0.0
