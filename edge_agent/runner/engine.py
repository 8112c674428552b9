"""One interpreter, one invoke at a time: short ones in the event loop, long ones in a worker thread.

A hop to a thread and back costs more than a tiny model takes. A hang in the loop stops the beats, a hang in the thread
shows as `busy_ms`: the supervisor sees both. A batch is many invokes: none of them is a hang because all of them take
long, and who asks for one sample meanwhile waits for a slice of the batch, not for the whole.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge_agent.runtimes.base import Array
    from edge_agent.runtimes.convert import BoundModel

INLINE_LIMIT_MS = 1.0
SLICE_MS = 20.0  # of a batch, before the next request has its turn; long beside the 0.1 ms that a turn costs

T = TypeVar("T")


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.loop = work, loop
        self.done: asyncio.Future[T] = loop.create_future()

    def run(self) -> None:
        try:
            result = self.work()
        except BaseException as exc:  # noqa: BLE001  whatever it is belongs to the one who waits
            self.loop.call_soon_threadsafe(self._fail, exc)
        else:
            self.loop.call_soon_threadsafe(self._succeed, result)

    def _succeed(self, result: T) -> None:
        if not self.done.done():
            self.done.set_result(result)

    def _fail(self, exc: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


class Worker:
    """A thread that does one thing after the other; a daemon, so that a hang in it keeps no process alive."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job[object]] = SimpleQueue()
        threading.Thread(target=self._loop, name="invoke", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._jobs.get().run()

    async def run(self, work: Callable[[], T]) -> T:
        """Do it in the thread."""
        job = _Job(work, asyncio.get_running_loop())
        self._jobs.put(job)  # type: ignore[arg-type]  # a queue of jobs of any result
        return await job.done


class Outcome(NamedTuple):
    """What a request gave, and how long it waited and ran."""

    outputs: dict[str, Array]
    queue_ms: float
    invoke_ms: float


class _Batch:
    """A request under way: the pieces of it that are still to be invoked, and the results so far."""

    def __init__(self, model: BoundModel, arrays: Mapping[str, Array], rows: int) -> None:
        self._model = model
        self._pieces = model.pieces(arrays, rows)
        self._count = model.invocations(rows)
        self._results: list[list[Array]] = []
        self.asked_s = self.ended_s = time.perf_counter()
        self.invoke_ms = 0.0

    def advance(self) -> dict[str, Array] | None:
        """Invoke once; the outputs when that was the last piece."""
        self._results.append(next(self._pieces))
        return self._model.join(self._results) if len(self._results) == self._count else None

    def outcome(self, outputs: dict[str, Array]) -> Outcome:
        """What it gave, and how long it waited and ran."""
        return Outcome(outputs, (self.ended_s - self.asked_s) * 1e3 - self.invoke_ms, self.invoke_ms)


class Engine:
    """Runs requests one invoke at a time, in the order of their arrival; long batches take turns."""

    def __init__(self, model: BoundModel, worker: Worker, *, expected_ms: float) -> None:
        """Take a proven model.

        Args:
            model: used by nobody else.
            worker: the thread for what takes long.
            expected_ms: what one invoke of the interpreter takes (p50 of the self-test: noise must not decide).
        """
        self.model = model
        self._worker = worker
        self._expected_ms = expected_ms
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._began_s: float | None = None

    @property
    def busy_ms(self) -> float:
        """How long the invoke that runs now has been running; 0 when none does."""
        began_s = self._began_s
        return 0.0 if began_s is None else (time.perf_counter() - began_s) * 1e3

    def samples_within(self, limit_ms: float) -> int:
        """How many samples are expected to take no longer than this; what one invoke takes is always within."""
        invokes = int(limit_ms / self._expected_ms) if self._expected_ms else sys.maxsize
        return max(1, invokes) * self.model.samples_per_invocation

    async def run(self, arrays: Mapping[str, Array], rows: int) -> Outcome:
        """Infer.

        Raises:
            edge_agent.errors.ModelInvokeError: the interpreter failed.
        """
        batch = _Batch(self.model, arrays, rows)
        outputs: dict[str, Array] | None = None
        if not self._waiting and self._expected_ms * self.model.invocations(rows) < INLINE_LIMIT_MS:
            outputs = self._invoke(batch)
        self._waiting += 1
        try:
            while outputs is None:
                async with self._turn:  # fair: who gives it back is behind all who wait for it
                    outputs = await self._worker.run(lambda: self._invoke(batch))
        finally:
            self._waiting -= 1
        return batch.outcome(outputs)

    def _invoke(self, batch: _Batch) -> dict[str, Array] | None:
        """Invoke until the batch is done or its slice of time is over; None: it wants another turn."""
        began_s = self._began_s = time.perf_counter()
        try:
            while True:
                outputs = batch.advance()
                now_s = self._began_s = time.perf_counter()
                if outputs is not None or (now_s - began_s) * 1e3 >= SLICE_MS:
                    return outputs
        finally:
            self._began_s = None
            batch.ended_s = time.perf_counter()
            batch.invoke_ms += (batch.ended_s - began_s) * 1e3
